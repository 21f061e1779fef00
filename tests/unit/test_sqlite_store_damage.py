"""Files of a SQLite store that are not what they were, after which no nonce is issued (A11, A12, A13)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from persistent_nonce.errors import StoreCorruptError, StoreReplacedError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.disk_faults import beside
from tests.support.files import wait_for_tick
from tests.support.outside import execute, settled
from tests.support.workers import KEY

path = databases.path


def _delete(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(f"{path}.moved")


def _replace(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


@pytest.mark.parametrize("fault", [_delete, _rename, _replace])
@pytest.mark.parametrize("suffix", ["", ".lock", ".marks", "-wal", "-shm"])
@pytest.mark.parametrize("quiet", [False, True])
def test_file_that_is_not_the_one_opened(
    path: Path,
    suffix: str,
    fault: Callable[[Path], None],
    quiet: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store whose file is deleted, renamed or replaced issues nothing more, and says which (A12, A13, I9)."""
    store = SQLiteStore(path)
    provider = NonceProvider(store, KEY)
    provider.next()
    if quiet:  # for so long that one look at the directory is enough
        monkeypatch.setattr("persistent_nonce.stores.identity._GRAIN", -1)
        provider.next()
        wait_for_tick(path.parent)
    fault(beside(path, suffix))
    databases.wait_for_leases()
    for use in (provider.next, lambda: provider.last, lambda: provider.reserve(2)):
        with pytest.raises(StoreReplacedError, match="no nonce was issued") as caught:
            use()
        assert f"{path}{suffix} was" in str(caught.value)
    store.close()


def test_file_that_is_no_database(path: Path) -> None:
    """A file that is no database is refused as damage, unchanged, with the way out (A11)."""
    path.write_bytes(b"not a database, but long enough to look like one" * 200)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError) as caught:
        SQLiteStore(path)
    assert "recover" in caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("wal", [False, True])
def test_somebody_elses_database(path: Path, wal: bool) -> None:
    """Another program's database is refused and not changed by a byte (I9)."""
    if wal:
        execute(path, "PRAGMA journal_mode = WAL")
    execute(path, "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (5)")
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match="not one of persistent_nonce"):
        SQLiteStore(path)
    assert path.read_bytes() == before
    assert not beside(path, "-wal").exists()


def test_refused_opening_leaves_nothing_open(path: Path) -> None:
    """An opening that fails gives back lock and descriptors, so that others can go on."""
    execute(path, "CREATE TABLE theirs (x)")
    path.chmod(0o600)
    before = settled()
    for _ in range(3):
        with pytest.raises(StoreCorruptError):
            SQLiteStore(path, timeout=0.001)
    assert settled() == before


@pytest.mark.parametrize("bit", range(48))
def test_flipped_bit_of_the_stored_nonce(path: Path, bit: int) -> None:
    """Each bit that flips in the stored nonce is noticed by whoever reads it next, and nothing is issued (A11, I9)."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        provider.next()
    mask = 1 << bit
    execute(path, f"UPDATE keys SET nonce = (nonce | {mask}) - (nonce & {mask})")  # noqa: S608 - a number only
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY)
        for use in (provider.next, lambda: provider.last):
            with pytest.raises(StoreCorruptError, match="damaged") as caught:
                use()
            assert "recover" in caught.value.hint
        assert NonceProvider(store, "another key").next() > 0


def test_damaged_page(path: Path) -> None:
    """A database whose pages were overwritten is damage, not a fresh start (A11, I9)."""
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
    data = bytearray(path.read_bytes())
    data[100:4_000] = b"\x55" * 3_900
    path.write_bytes(data)
    with pytest.raises(StoreCorruptError), SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
