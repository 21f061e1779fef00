"""The writer's compare-and-swap: what is kept from the last time is used only while it is the newest."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import (
    ConfigurationError,
    KeyClosedError,
    StoreRolledBackError,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreVersionError,
)
from persistent_nonce.nonces import issue
from persistent_nonce.provider import NonceProvider
from persistent_nonce.settings import configure
from persistent_nonce.state import CallRecord, Changed, KeyState, Wanted
from persistent_nonce.stores import rows
from persistent_nonce.stores.marks import path_of, read_marks
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.stores.writer import Writer
from tests.support.clocks import StillClock
from tests.support.databases import wait_for_leases
from tests.support.workers import KEY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database."""
    return tmp_path / "nonces.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """Yield an open store."""
    with SQLiteStore(path) as store:
        yield store


@pytest.fixture
def other(path: Path, store: SQLiteStore) -> Iterator[SQLiteStore]:
    """Yield another store of the same files, as another process would have it."""
    with SQLiteStore(store.path) as other:
        yield other


@pytest.fixture
def provider(store: SQLiteStore) -> NonceProvider:
    """Return a provider whose store keeps the key's state from the last time."""
    provider = NonceProvider(store, KEY)
    provider.next()
    provider.next()
    return provider


def shell(path: Path) -> closing[sqlite3.Connection]:
    """Return a connection that knows nothing of our lock."""
    return closing(sqlite3.connect(path, isolation_level=None))


def test_refusal_of_an_outdated_state_does_not_count(
    store: SQLiteStore, other: SQLiteStore, provider: NonceProvider
) -> None:
    """A key that another process opened again issues nonces, though this one remembers it as closed."""
    key = provider.key
    store.update(key, lambda state, _: Changed(state._replace(closed=True)))
    with pytest.raises(KeyClosedError):
        provider.next()
    other.update(key, lambda state, _: Changed(state._replace(closed=False)))
    assert provider.next() == provider.last


def test_refusal_by_an_outdated_setting_does_not_count(
    store: SQLiteStore, other: SQLiteStore, provider: NonceProvider
) -> None:
    """What another process has set since is asked before a change may fail, though the mark tells of nothing."""

    def change(state: KeyState, _: Now) -> Changed:
        if state.burst < 5:
            raise ConfigurationError("more than may ever be spent")
        return Changed(state)

    with pytest.raises(ConfigurationError):
        store.update(provider.key, change)
    other.update(provider.key, lambda state, _: Changed(state._replace(burst=5)))
    assert store.update(provider.key, change).burst == 5


def test_outdated_state_is_never_returned(
    store: SQLiteStore, other: SQLiteStore, provider: NonceProvider
) -> None:
    """A change that changes nothing returns the newest state, not the one remembered."""
    last = NonceProvider(other, KEY).next()
    assert store.update(provider.key, lambda state, _: Changed(state)).nonce == last
    assert provider.next() > last
    # What is no nonce leaves the mark as it is, which else would tell.
    other.update(provider.key, lambda state, _: Changed(state._replace(reason="new")))
    unchanged = store.update(provider.key, lambda state, _: Changed(state))
    assert unchanged.reason == "new"


def test_call_records_are_not_written_for_an_outdated_state(
    store: SQLiteStore, other: SQLiteStore, provider: NonceProvider
) -> None:
    """A change computed from an outdated state leaves no record behind; it is computed again from the newest."""
    key = provider.key
    # No nonce of the other's: its mark would tell of it at once.
    other.update(key, lambda state, _: Changed(state._replace(reason="theirs")))
    states: list[KeyState] = []

    def change(state: KeyState, now: Now) -> Changed:
        states.append(state)
        name = f"call-{len(states)}"
        call = (name, key, "session", "Balance", 1, state.nonce, now.wall, 0, 5)
        return Changed(issue(state, now), (CallRecord(*call, "ok", 1),))

    assert store.update(key, change).nonce == provider.last
    assert [state.reason for state in states] == ["", "theirs"]
    assert [record.id for record in store.calls(key)] == ["call-2"]


def test_new_key_that_another_process_was_faster_with(
    store: SQLiteStore, other: SQLiteStore, provider: NonceProvider, path: Path
) -> None:
    """A key whose first nonce failed here, and was issued there, works in both (I3)."""
    late = NonceProvider(store, "late")
    with shell(path) as writing:
        writing.execute("BEGIN IMMEDIATE")
        wait_for_leases()
        with pytest.raises(StoreTimeoutError):
            late.next()
        writing.execute("ROLLBACK")
    first = NonceProvider(other, "late").next()
    assert late.next() > first
    assert provider.next() == provider.last


def test_new_key_in_a_migrated_database(store: SQLiteStore, path: Path) -> None:
    """A key that is known as new is looked up again, and the schema with it (fault A38)."""
    provider = NonceProvider(store, KEY)

    def refuse(state: KeyState, now: Now) -> Changed:
        raise KeyClosedError

    with pytest.raises(KeyClosedError):
        store.update(provider.key, refuse)
    with shell(path) as newer:
        newer.execute("PRAGMA user_version = 2")
    with pytest.raises(StoreVersionError):
        provider.next()
    with shell(path) as reading:
        assert reading.execute("SELECT count(*) FROM keys").fetchall() == [(0,)]
        reading.execute("PRAGMA user_version = 1")


def test_busy_database_is_no_broken_disk(provider: NonceProvider, path: Path) -> None:
    """After a wait for a foreign writer that was in vain, a long reader such as a backup is in nobody's way."""
    with shell(path) as backup, shell(path) as writing:
        backup.execute("BEGIN")
        assert backup.execute("SELECT count(*) FROM keys").fetchall() == [(1,)]
        writing.execute("BEGIN IMMEDIATE")
        wait_for_leases()
        with pytest.raises(StoreTimeoutError):
            provider.next()
        writing.execute("ROLLBACK")
        assert provider.next() < provider.next()


@pytest.mark.parametrize(("floor", "back"), [(0, 3600), (7_200, 0)])
def test_cut_between_the_two_commits_stops_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, floor: int, back: int
) -> None:
    """A ceiling is committed with what bounds it, so that another boot can go on from it at once (I4, I10).

    Found by power cuts: the mark lay above the bound until the clock had caught up.
    """
    clock = StillClock()
    write, calls = rows.write_row, itertools.count()

    def cut(*row: Any) -> tuple[Any, ...]:
        if next(calls):
            raise sqlite3.OperationalError("power cut")
        return write(*row)

    with SQLiteStore(path, clock=clock) as store:
        provider = NonceProvider(store, KEY)
        at_least = clock.now // 1_000_000 + floor * 1000
        with monkeypatch.context() as patch:
            patch.setattr(rows, "write_row", cut)
            with pytest.raises(StoreUnavailableError):
                provider.raise_floor(at_least)
    clock.now -= back * SECOND
    clock.name = "another boot"
    with SQLiteStore(path, clock=clock) as store:
        assert NonceProvider(store, KEY).next() > at_least


def test_log_shrinks_again(provider: NonceProvider, path: Path) -> None:
    """A `-wal` that grew while a reader stood still in the middle of a look is cut to 4 MiB afterwards (fault A33)."""
    log = Path(f"{path}-wal")
    with shell(path) as stopped:
        stopped.execute("BEGIN")
        assert stopped.execute("SELECT count(*) FROM keys").fetchall() == [(1,)]
        while log.stat().st_size <= 5 << 20:
            provider.reserve(1)
    for _ in range(2):
        provider.next()
    assert log.stat().st_size <= 4 << 20


@pytest.mark.parametrize("restored", [False, True])
def test_row_changed_by_hand(
    provider: NonceProvider, path: Path, restored: bool
) -> None:
    """A row that somebody deleted, or set back to what it was, is refused, again and again (I9, I10; fault A12)."""
    with shell(path) as hand:
        hand.execute("CREATE TEMP TABLE old AS SELECT * FROM keys")
        provider.reserve(1)
        hand.execute("DELETE FROM keys")
        if restored:
            hand.execute("INSERT INTO keys SELECT * FROM old")
    wait_for_leases()
    for _ in range(2):
        with pytest.raises(StoreRolledBackError, match="went back"):
            provider.next()


@pytest.mark.parametrize(
    "key",
    ["z" * 16, "A" * 16, "0" * 15, "0" * 17, "", "0" * 15 + "\n", "\u0660" * 16, 16],
)
def test_key_that_is_no_fingerprint(store: SQLiteStore, key: str) -> None:
    """What is no fingerprint is refused before anything is written, again and again (I9).

    Found by review: a row was committed of it, and a ValueError came of its mark.
    """
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no fingerprint"):
            store.update(key, lambda state, now: Changed(issue(state, now)))
    assert store.keys() == []
    assert read_marks(path_of(store.path)) == ({}, 0)
    with pytest.raises(ConfigurationError, match="no fingerprint"):
        store.update(key, lambda state, _: Changed(state))


class Slow(StillClock):
    """A clock by which every commit that waits for the disk lasts `seconds`; it counts them."""

    seconds = 0.0
    waited = 0

    def wait_for_the_disk(self) -> None:
        """Let the time of a commit pass."""
        self.waited += 1
        self.advance(self.seconds)


@pytest.mark.timeout(60)  # it went on for ever
@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
@pytest.mark.parametrize(
    ("seconds", "lead"), [(6.0, 900.0), (3600.0, 900.0), (0.001, 0.0)]
)
def test_disk_slower_than_the_ceiling_is_high(
    path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, seconds: float, lead: float
) -> None:
    """A ceiling stands for the nonce it was asked for, however long the disk takes (I3, I4, I8, I10).

    Found by review: each ceiling was outdated when its fsync returned, and the next was put on the disk, for ever.
    """
    clock = Slow()
    real = Writer._prove

    def prove(writer: Writer, *given: Any) -> int:
        proven = real(writer, *given)
        clock.wait_for_the_disk()
        return proven

    monkeypatch.setattr(Writer, "_prove", prove)
    with SQLiteStore(path, clock=clock) as store:
        provider = NonceProvider(store, KEY, unit=unit)
        wanted = Wanted(max_lead=round(lead * SECOND))
        store.update(provider.key, lambda state, _: Changed(configure(state, wanted)))
        clock.seconds = seconds
        last = 0
        for number in range(1, 4):
            nonce = provider.next()
            state = store.read(provider.key)
            assert last < nonce <= state.synced <= state.bound
            assert clock.waited == number
            last = nonce
            clock.advance(10.0)
        # What paces the calls is not held back with it (I6).
        waited = clock.waited
        clock.advance(2 * 3600.0)
        store.update(
            provider.key,
            lambda state, now: Changed(issue(state, now)._replace(started=now.mono)),
        )
        assert clock.waited == waited + 1
        assert store.read(provider.key).started == clock.mono()


def test_row_that_never_stands_still(
    store: SQLiteStore, provider: NonceProvider, path: Path
) -> None:
    """A writer that knows no lock, and changes the row in every transaction, ends it with an error (I8, I9)."""
    with shell(path) as hand:

        def change(state: KeyState, now: Now) -> Changed:
            row = hand.execute(rows.select_row, (state.key,)).fetchone()
            theirs = rows.decode(row)
            rows.write_row(hand.execute, row, theirs._replace(ticket=theirs.ticket + 1))
            return Changed(issue(state, now))

        with pytest.raises(StoreUnavailableError, match="no nonce was issued"):
            store.update(provider.key, change)
