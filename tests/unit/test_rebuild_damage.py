"""A database that was damaged, lost or set back is rebuilt from its rows and marks, only upwards."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce.errors import (
    StoreCorruptError,
    StoreRolledBackError,
    StoreUnavailableError,
    StoreVersionError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.rebuild import rebuild
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.rebuilding import KEYS, contents, done, goes_on_above, use

path = databases.path


def test_nothing_wrong(path: Path) -> None:
    """A sound database is left as it is, to the last byte, with its neighbours."""
    use(path)
    before = contents(path)
    assert rebuild(path, shared=False) is None
    assert contents(path) == before


def test_older_copy(path: Path) -> None:
    """After an older copy was put in place, each key goes on above its mark, with its settings and calls (I10)."""
    use(path)
    older = path.read_bytes()
    last = use(path)
    path.write_bytes(older)
    rebuilt = done(path)
    assert rebuilt.calls == 3
    assert rebuilt.kept is not None
    assert rebuilt.kept.read_bytes() == older
    assert {key.state.label for key in rebuilt.keys} == {f"{key} label" for key in KEYS}
    assert all(key.before and key.mark for key in rebuilt.keys)
    goes_on_above(path, last)
    with SQLiteStore(path) as store:
        assert len(store.calls("one")) == 0
        assert len(store.calls(fingerprint("one"))) == 3


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 500])
def test_lost_database(path: Path, content: bytes | None) -> None:
    """Of a database that is gone, empty or overwritten, the marks keep every key with its unit."""
    last = use(path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    rebuilt = done(path)
    assert [key.state.unit for key in rebuilt.keys if not key.before] == [
        key.mark.unit for key in rebuilt.keys if key.mark
    ]
    assert (rebuilt.kept is None) == (content is None)
    goes_on_above(path, last)


def test_lost_log(path: Path) -> None:
    """A -wal that was deleted after a kill is missed, and what it held is made up for (fault A12)."""
    use(path)
    pid = os.fork()
    if not pid:
        try:
            provider = NonceProvider(SQLiteStore(path), "one")
            provider.raise_floor(provider.next() + 200_000)
            provider.next()
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    Path(f"{path}-wal").unlink()
    Path(f"{path}-shm").unlink()
    with SQLiteStore(path) as store, pytest.raises(StoreRolledBackError):
        NonceProvider(store, "one").next()
    rebuilt = done(path)
    (one,) = (key for key in rebuilt.keys if key.state.label == "one label")
    assert one.mark is not None
    assert one.before is not None
    assert one.state.nonce > one.mark.nonce > one.before.nonce


@given(seed=st.integers(0, 2**32))
def test_random_damage(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Whatever bytes are overwritten, no key goes on at or below its last nonce (I9, I10; fault A11)."""
    dice = random.Random(seed)
    path = tmp_path_factory.mktemp("damage") / "nonces.db"
    last = use(path)
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 3, 30])):
        start = dice.randrange(len(content))
        length = dice.choice([1, 8, 1024])
        content[start : start + length] = dice.randbytes(length)
    path.write_bytes(content[: dice.choice([len(content), len(content) // 2])])
    rebuild(path, shared=False)
    goes_on_above(path, last)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_nothing_is_left(path: Path) -> None:
    """Where neither a row nor a mark is left, nothing is changed: an empty start might repeat nonces."""
    use(path)
    path.write_bytes(b"\0" * 4096)
    path_of(path).unlink()
    before = contents(path)
    with pytest.raises(StoreUnavailableError, match="nothing was changed"):
        rebuild(path, shared=False)
    assert contents(path) == before


def test_foreign_and_newer_databases_are_left(path: Path) -> None:
    """Somebody else's database, and one of a newer version, are refused and not touched."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (value)")
    path.chmod(0o600)
    before = contents(path)
    with pytest.raises(StoreCorruptError, match="not one of"):
        rebuild(path, shared=False)
    assert contents(path) == before
    path.unlink()
    use(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = contents(path)
    with pytest.raises(StoreVersionError):
        rebuild(path, shared=False)
    assert contents(path) == before
