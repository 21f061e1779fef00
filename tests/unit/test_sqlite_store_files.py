"""The files of a SQLite store: where it makes none, who may use them, and which it leaves behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from persistent_nonce.errors import ConfigurationError, StoreUnavailableError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.outside import settled
from tests.support.processes import Children
from tests.support.workers import KEY

path = databases.path


@pytest.mark.parametrize("umask", [0, 0o777])
@pytest.mark.parametrize("shared", [False, True])
def test_modes_whatever_the_umask(tmp_path: Path, umask: int, shared: bool) -> None:
    """Every file is the owner's, or the group's too where the store is shared; so is the directory of sessions."""
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    place.chmod(0o2770 if shared else 0o700)
    before = os.umask(umask)
    try:
        with SQLiteStore(place / "nonces.db", shared=shared) as store:
            NonceProvider(store, KEY).next()
            store.session()
            found = {
                str(file.relative_to(place)): stat.S_IMODE(file.stat().st_mode)
                for file in place.rglob("*")
            }
            directory = found.pop("nonces.db.sessions")
            assert len(found) == 6
            assert set(found.values()) == {0o660 if shared else 0o600}
            assert directory == (0o2770 if shared else 0o700)
    finally:
        os.umask(before)


def test_closed_store_leaves_its_database_and_lock(path: Path) -> None:
    """After the last closing neither -wal nor -shm nor a session is left, and no descriptor is open."""
    before = settled()
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
        assert store.keys()
        store.session()
    left = sorted(file.name for file in path.parent.rglob("*"))
    assert left == [
        "nonces.db",
        "nonces.db.lock",
        "nonces.db.marks",
        "nonces.db.sessions",
    ]
    assert settled() == before


def test_dropped_store_is_closed(path: Path) -> None:
    """A store that nobody holds any more gives everything back by itself, without waiting in its finalizer."""
    before = settled()
    store = SQLiteStore(path)
    NonceProvider(store, KEY).next()
    del store
    assert settled() == before


def test_missing_directory(tmp_path: Path) -> None:
    """A directory that does not exist is not made: it may be a mount that is missing."""
    with pytest.raises(StoreUnavailableError, match="there is no directory"):
        SQLiteStore(tmp_path / "missing" / "nonces.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_unusable_timeout(path: Path, timeout: float) -> None:
    """A timeout that is no number of seconds is refused before any file is made."""
    with pytest.raises(ConfigurationError):
        SQLiteStore(path, timeout=timeout)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("what", ["database", "directory"])
def test_what_may_not_be_written(what: str, path: Path) -> None:
    """For a user who may not write the database, or its directory, an error names it, and reading goes on (A10)."""
    if os.getuid():
        pytest.skip("needs root, to become a user without rights")
    source = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tempfile import mkdtemp\n"
        "from persistent_nonce.errors import StoreError\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "with SQLiteStore(sys.argv[2]):\n"
        "    pass  # all that is imported late is there now\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "place = Path(mkdtemp())\n"
        "path = place / 'n.db'\n"
        "try:\n"
        "    with SQLiteStore(path) as store:\n"
        "        first = NonceProvider(store, 'key').next()\n"
        "    chosen = path if sys.argv[1] == 'database' else place\n"
        "    chosen.chmod(0o400 if chosen is path else 0o500)\n"
        "    try:\n"
        "        with SQLiteStore(path) as store:\n"
        "            NonceProvider(store, 'key').next()\n"
        "        print('no error')\n"
        "    except StoreError as error:\n"
        "        print(type(error).__name__, str(path) in str(error))\n"
        "    chosen.chmod(0o700)\n"
        "    path.chmod(0o600)\n"
        "    with SQLiteStore(path) as store:\n"
        "        print(NonceProvider(store, 'key').next() > first)\n"
        "finally:\n"
        "    place.chmod(0o700)\n"
        "    import shutil; shutil.rmtree(place)\n"
    )
    with Children() as children:
        child = children.script(source, what, path)
        said = child.line()
        assert said in ("StoreUnavailableError True", "StorePermissionError True")
        assert child.line() == "True"
