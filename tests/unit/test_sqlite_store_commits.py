"""The order of a SQLite store's commits, and which of them wait for the disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce.clock import Now
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState, fingerprint
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.stores.writer import Writer
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.outside import FIVE_SECONDS, execute
from tests.support.workers import KEY

path, clock, store = databases.path, databases.clock, databases.store_by_clock


def _writes(sql: str) -> bool:
    """Whether a statement stores something of a key: in a transaction of its own, unless one is open."""
    return sql.startswith(("INSERT", "UPDATE", "COMMIT")) and "INTO store" not in sql


class Trace:
    """The marks of a key after each of a store's commits, with the level of `synchronous` it was made at."""

    def __init__(self, store: SQLiteStore, path: Path) -> None:
        self.commits: list[
            tuple[bool, int, int, int]
        ] = []  # full, nonce, ceiling, synced
        self._writer = store._writer
        self._path = path
        self._level = 1
        self._real = store._writer._execute
        store._writer._execute = self._execute

    def _execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        cursor = self._real(sql, *arguments)
        if sql.startswith("PRAGMA synchronous ="):
            self._level = int(sql.rpartition("=")[2])
        if _writes(sql) and not self._writer.connection.in_transaction:
            query = "SELECT nonce, ceiling, synced FROM keys"
            nonce, ceiling, synced = execute(self._path, query)[-1]
            self.commits.append((self._level == 2, nonce, ceiling, synced))
        return cursor


def test_ceiling_is_on_the_disk_before_its_nonce(
    store: SQLiteStore, path: Path, clock: StillClock
) -> None:
    """A nonce above `synced` leaves after a commit with fsync that has its ceiling and no `synced` (I4)."""
    provider = NonceProvider(store, KEY)
    trace = Trace(store, path)
    first = provider.next()
    top = first + FIVE_SECONDS
    assert trace.commits == [(True, 0, top, 0), (False, first, top, top)]
    trace.commits.clear()
    provider.reserve(1)
    assert trace.commits == [(False, first + 1, top, top)]
    trace.commits.clear()
    clock.advance(5)
    assert provider.reserve(1)[0] == top
    assert trace.commits == [(False, top, top, top)]
    trace.commits.clear()
    assert provider.reserve(1)[0] == top + 1
    later = top + 1 + FIVE_SECONDS
    assert trace.commits == [(True, top, later, 0), (False, top + 1, later, later)]


def test_many_nonces_ask_the_disk_once(store: SQLiteStore, path: Path) -> None:
    """Below the ceiling no commit waits for the disk."""
    provider = NonceProvider(store, KEY)
    provider.next()
    trace = Trace(store, path)
    for _ in range(100):
        provider.reserve(1)
    assert [full for full, *_ in trace.commits] == [False] * 100


@pytest.mark.parametrize("step", [4_999, 5_000, 77_777, 450_001])
def test_no_nonce_leaves_uncovered(store: SQLiteStore, path: Path, step: int) -> None:
    """Over all the lead there is, no nonce lies above a ceiling on the disk, no ceiling above the bound (I4)."""
    provider = NonceProvider(store, KEY)
    first = provider.next()
    trace = Trace(store, path)
    while provider.last + step <= first + 900_000:
        provider.reserve(step)
    bound = store.read(provider.key).bound
    assert bound == first + 900_000
    durable = 0
    for full, nonce, ceiling, synced in trace.commits:
        assert ceiling <= bound
        if full:
            assert synced == 0
            durable = ceiling
        else:
            assert nonce <= synced <= durable or not durable
    assert durable


def test_durable_update_waits_for_the_disk(store: SQLiteStore, path: Path) -> None:
    """A durable change, a raised floor among them, is committed with fsync, each of its commits; the next is not."""
    provider = NonceProvider(store, KEY)
    last = provider.next()
    trace = Trace(store, path)
    provider.raise_floor(last + 100)
    assert [full for full, *_ in trace.commits] == [True]
    trace.commits.clear()
    provider.raise_floor(last + 100_000)
    assert [full for full, *_ in trace.commits] == [True, True]
    assert trace.commits[-1][1] == last + 100_000
    trace.commits.clear()
    provider.next()
    assert [full for full, *_ in trace.commits] == [False]


def test_failure_of_the_disk_voids_what_was_trusted(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of SQLite the next nonce asks the disk anew, though it lies below `synced` (I4)."""
    provider = NonceProvider(store, KEY)
    last = provider.next()
    real = store._writer._execute

    def fail(sql: str, *arguments: Any) -> sqlite3.Cursor:
        if _writes(sql):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR | 4 << 8  # of the fsync
            raise error
        return real(sql, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store._writer, "_execute", fail)
        with pytest.raises(StoreUnavailableError, match="input/output error") as caught:
            provider.next()
    assert "no nonce was issued" in str(caught.value)
    trace = Trace(store, path)
    assert provider.reserve(1)[0] == last + 1
    assert [full for full, *_ in trace.commits] == [True, False]
    assert trace.commits[0][3] == 0
    trace.commits.clear()
    provider.reserve(1)
    assert [full for full, *_ in trace.commits] == [False]


def test_ceiling_of_a_killed_process_is_not_trusted(
    store: SQLiteStore, path: Path
) -> None:
    """A ceiling whose fsync nobody has seen return covers nothing: `synced` tells, not `ceiling` (I3, I4)."""
    provider = NonceProvider(store, KEY)
    provider.next()

    def unsynced(state: KeyState, now: Now) -> Changed:
        return Changed(state._replace(ceiling=state.ceiling + 99_999, synced=0))

    store.update(provider.key, unsynced)
    trace = Trace(store, path)
    provider.next()
    assert [full for full, *_ in trace.commits] == [True, False]


def test_database_is_set_up_as_designed(store: SQLiteStore, path: Path) -> None:
    """The writer uses WAL without memory mapping, and gives up on foreign writers before a signal is missed."""
    connection = store._writer.connection
    settings = {
        name: connection.execute(f"PRAGMA {name}").fetchall()[0][0]
        for name in ("journal_mode", "mmap_size", "busy_timeout", "synchronous")
    }
    assert settings.pop("busy_timeout") <= 250
    assert settings == {"journal_mode": "wal", "mmap_size": 0, "synchronous": 1}


def test_a_ceiling_is_stored_with_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes after a crash between the two commits of a first nonce knows in which ticks the ceiling is (I4)."""
    store_row = Writer._store
    stored: list[KeyState] = []

    def crash(self: Writer, state: KeyState, *rest: Any, **named: Any) -> bool:
        stored.append(state)
        if len(stored) > 1:
            raise StoreUnavailableError("crash")
        return store_row(self, state, *rest, **named)

    monkeypatch.setattr(Writer, "_store", crash)
    with SQLiteStore(tmp_path / "nonces.db") as store:
        with pytest.raises(StoreUnavailableError):
            NonceProvider(store, "k", unit="ns").next()
        state = store.read(fingerprint("k"))
    assert (state.unit, state.nonce, state.synced) == ("ns", 0, 0)
    assert state.ceiling > 10**18


def test_after_an_error_of_the_disk_the_log_is_written_back(tmp_path: Path) -> None:
    """A ceiling is trusted only when all that lies before it in the log is known to be on the disk (I4)."""
    with SQLiteStore(tmp_path / "nonces.db") as store:
        nonces = NonceProvider(store, "k", unit="ns")
        nonces.next()
        said: list[str] = []
        store._writer._distrust = True
        store._writer.connection.set_trace_callback(said.append)
        nonces.next()
        nonces.next()
    checkpoints = [i for i, text in enumerate(said) if "wal_checkpoint" in text]
    commits = [i for i, text in enumerate(said) if _writes(text)]
    assert len(checkpoints) == 1
    assert checkpoints[0] < commits[0]
