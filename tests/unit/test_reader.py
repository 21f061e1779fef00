"""Readers: no lock, no trace, and nothing that is not committed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from persistent_nonce.errors import (
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
    StoreVersionError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.processes import Children, descriptors
from tests.support.workers import KEY, hold_lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database in which a nonce was taken, closed again."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    """Yield a reader of that database."""
    reader = Reader(path)
    yield reader
    reader.close()


def _files(path: Path) -> dict[str, tuple[int, int]]:
    return {
        found.name: (found.stat().st_size, found.stat().st_mtime_ns)
        for found in path.parent.iterdir()
        if found.is_file()
    }


def test_closed_database_is_read_without_a_trace(path: Path, reader: Reader) -> None:
    """Reading a database that nobody has open makes no file and changes none."""
    before = _files(path)
    assert f"{path.name}-wal" not in before
    (key,) = reader.keys()
    assert reader.read(key).nonce > 0
    assert reader.calls() == []
    reader.close()
    assert _files(path) == before


def test_reading_takes_no_lock(path: Path, reader: Reader) -> None:
    """While another process holds the store's lock, readers of every kind go on."""
    with SQLiteStore(path, timeout=0.01) as store, Children() as children:
        provider = NonceProvider(store, KEY)
        last = provider.next()
        child = children.call(hold_lock, path)
        child.wait_for("ready")
        with pytest.raises(StoreError, match="not free"):
            provider.next()
        assert provider.last == last
        assert store.keys() == reader.keys() == [provider.key]
        assert reader.read(provider.key).nonce == last


def test_uncommitted_rows_are_not_seen(path: Path, reader: Reader) -> None:
    """Within a transaction the store's own readers and others see what was committed before."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY)
        before = provider.next()
        store._writer.connection.execute("BEGIN IMMEDIATE")
        store._writer.connection.execute("UPDATE keys SET nonce = 1")
        assert store.read(provider.key).nonce == before
        assert reader.read(provider.key).nonce == before
        assert provider.next() > before  # what an interrupt left is rolled back


def test_commits_are_seen_at_once(path: Path, reader: Reader) -> None:
    """A reader that has the database open sees each nonce that was returned, and a new one after its closing."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY)
        for _ in range(5):
            last = provider.reserve(1)[0]
            assert reader.read(provider.key).nonce == last
    assert reader.read(provider.key).nonce == last
    with SQLiteStore(path) as store:
        last = NonceProvider(store, KEY).next()
        assert reader.read(provider.key).nonce == last


def test_database_left_by_a_kill_is_read(path: Path, reader: Reader) -> None:
    """What a killed process had committed into the -wal is read, by a reader that comes afterwards."""
    source = (
        "import os, sys\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1])\n"  # or it would be closing when it is killed
        "print(NonceProvider(store, sys.argv[2]).next(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with Children() as children:
        child = children.script(source, path, KEY)
        last = int(child.line())
        child.end()
    assert Path(f"{path}-wal").stat().st_size > 0
    (key,) = reader.keys()
    assert reader.read(key).nonce == last


def test_copy_in_a_directory_that_cannot_be_written(path: Path, tmp_path: Path) -> None:
    """A closed database is read also where its directory allows no new file, by a user without rights."""
    if os.getuid():
        pytest.skip("needs root, to become a user without rights")
    source = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from persistent_nonce.stores.reader import Reader\n"
        "os.setuid(65534)\n"
        "reader = Reader(Path(sys.argv[1]))\n"
        "print(reader.read(reader.keys()[0]).nonce > 0)\n"
    )
    with (
        TemporaryDirectory() as place,
        Children() as children,
    ):  # one that others can reach
        copy = Path(shutil.copy(path, place))
        copy.chmod(0o444)
        Path(place).chmod(0o555)
        child = children.script(source, copy)
        assert child.line() == "True"
        assert os.listdir(place) == [path.name]


def test_missing_database(tmp_path: Path) -> None:
    """A reader of nothing says so, and makes nothing."""
    reader = Reader(tmp_path / "missing.db")
    with pytest.raises(StoreUnavailableError, match=r"missing\.db"):
        reader.keys()
    assert list(tmp_path.iterdir()) == []


def test_empty_file(tmp_path: Path) -> None:
    """An empty file, as a first start that was killed leaves it, is told from a damaged one."""
    (tmp_path / "nonces.db").touch()
    with pytest.raises(StoreUnavailableError, match="not been set up"):
        Reader(tmp_path / "nonces.db").keys()


def test_no_database(tmp_path: Path) -> None:
    """A file that is no database is named as damage, with the way to recover."""
    (tmp_path / "nonces.db").write_text("no database at all" * 100)
    with pytest.raises(StoreCorruptError) as caught:
        Reader(tmp_path / "nonces.db").keys()
    assert "recover" in caught.value.hint


def test_newer_database(path: Path, reader: Reader) -> None:
    """A database of a newer version is not read."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreVersionError, match="schema 99"):
        reader.keys()


def test_name_with_signs_of_an_address(tmp_path: Path) -> None:
    """A file name may hold what means something in the address that SQLite is given."""
    path = tmp_path / "a?mode=rw%20#b.db"
    with SQLiteStore(path) as store:
        last = NonceProvider(store, KEY).next()
        assert store.read(store.keys()[0]).nonce == last
    reader = Reader(path)
    assert reader.read(reader.keys()[0]).nonce == last


def test_readers_come_and_go_beside_openings(path: Path) -> None:
    """Readers beside a store that is opened and closed all the time get the newest nonce or a later one, no error."""
    end = threading.Event()
    wrong: list[object] = []
    floor = [0]

    def read() -> None:
        reader = Reader(path)
        try:
            while not end.is_set():
                least = floor[0]
                found = reader.read(reader.keys()[0]).nonce
                if found < least:
                    wrong.append((found, least))
        except Exception as error:  # noqa: BLE001 - told to the test
            wrong.append(error)
        finally:
            reader.close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        with SQLiteStore(path, timeout=60) as store:
            floor[0] = NonceProvider(store, KEY).next()
    end.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_reader_gives_its_files_back(path: Path) -> None:
    """A closed reader has no descriptor open, whichever way it read."""
    with SQLiteStore(path) as store:
        before = descriptors()
        reader = Reader(path)
        reader.keys()
        assert descriptors() > before
        reader.close()
        assert descriptors() <= before + 1  # SQLite keeps one for the store's locks
        assert store.keys()
