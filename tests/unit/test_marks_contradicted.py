"""The marks beside a database contradict it when it went back, and its stores issue nothing then."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import (
    StoreCorruptError,
    StoreReplacedError,
    StoreRolledBackError,
    StoreUnavailableError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.rules import wake
from persistent_nonce.state import UNITS, Changed, KeyState
from persistent_nonce.stores.marks import path_of, read_marks
from persistent_nonce.stores.rebuild import rebuild
from persistent_nonce.stores.slots import Mark, went_back
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.files import wait_for_tick
from tests.support.states import KEY, marked

database = databases.path


# --- what contradicts them


def mark(nonce: int, unit: str = "ns") -> Mark:
    """Return a mark."""
    return Mark(KEY, 1, nonce, unit)


def test_a_database_that_went_back() -> None:
    """In one boot the row is never below its mark; after another it may be, as far as its ceiling (I4)."""
    at = marked(100, ceiling=150, boot="this")
    assert not went_back(at, mark(100), "this")
    assert went_back(at, mark(101), "this")
    assert not went_back(at, mark(150), "next")
    assert went_back(at, mark(151), "next")
    assert went_back(KeyState(KEY), mark(1), "this")


def test_marks_of_another_unit() -> None:
    """A mark counts in its own unit: one from before a change of unit lies where it lay."""
    at = marked(7_000_000, unit="ns", boot="b")
    assert not went_back(at, mark(7, "ms"), "b")
    assert went_back(at, mark(8, "ms"), "b")
    back = marked(7, unit="ms", boot="b")
    assert not went_back(back, mark(7_000_000), "b")
    assert went_back(back, mark(7_000_001), "b")


# --- in a store


def test_each_nonce_is_marked(database: Path) -> None:
    """The mark is the last nonce that left, one by one or reserved, or the floor, in the key's unit."""
    with SQLiteStore(database) as store:
        provider = NonceProvider(store, "k", unit="ms")

        def finer(state: KeyState, now: Now) -> Changed:
            return Changed(nonces.set_unit(state, now, "us"))

        for unit, take in (
            ("ms", provider.next),
            ("ms", lambda: provider.reserve(10)),
            ("ms", lambda: provider.raise_floor(provider.last + 99)),
            ("us", lambda: store.update(provider.key, finer, durable=True)),
        ):
            take()
            (found,) = read_marks(path_of(database))[0].values()
            assert (found.nonce, found.unit) == (provider.last, unit)


def test_mark_never_lies_above_the_ceiling(database: Path) -> None:
    """However far nonces run, no mark lies above a ceiling that is on the disk (I4)."""
    clock = StillClock()
    with SQLiteStore(database, clock=clock) as store:
        provider = NonceProvider(store, "k", unit="ms")
        for _ in range(200):
            provider.reserve(997)
            clock.advance(0.5)
            at = store.read(provider.key)
            (only,) = read_marks(path_of(database))[0].values()
            assert only.nonce == at.nonce <= at.synced == at.ceiling


def test_failed_mark_issues_nothing(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nonce whose mark cannot be written does not leave, and is skipped (I9)."""
    with SQLiteStore(database) as store:
        provider = NonceProvider(store, "k")
        last = provider.next()

        def fail(descriptor: int, content: bytes, offset: int) -> int:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            with pytest.raises(StoreUnavailableError, match="no nonce was issued"):
                provider.next()
        assert provider.next() > last


def test_damaged_mark_stops_its_key_until_recover(database: Path) -> None:
    """Who finds a damaged mark does not write over the one thing that tells of a lost log (I1, I9; fault A11).

    Found by review: it was a warning, and the next nonce made the mark whole, with a number of an older row.
    """
    with SQLiteStore(database) as store, SQLiteStore(database) as other:
        ours, theirs = NonceProvider(store, "k"), NonceProvider(other, "k")
        ours.next(), theirs.next()
        last = ours.next()
        content = bytearray(path_of(database).read_bytes())
        content[20] ^= 4
        path_of(database).write_bytes(content)
        for _ in range(2):
            for provider in (ours, theirs):
                with pytest.raises(StoreCorruptError, match="no nonce was issued"):
                    provider.next()
        assert path_of(database).read_bytes() == content
        with pytest.raises(StoreCorruptError, match="marks"):
            NonceProvider(store, "new").next()
    assert rebuild(database, shared=False) is not None
    with SQLiteStore(database) as store:
        assert NonceProvider(store, "k").next() > last
        assert NonceProvider(store, "new").next()


def test_older_copy_beside_emptied_marks(database: Path) -> None:
    """Of marks that were emptied in use each user finds the later ones, and a database that goes back is refused.

    Found by review: a process went on behind the hole, others took another slot, and it issued nonces again (I1; A13).
    """
    with SQLiteStore(database) as store:
        for key in ("one", "two"):
            NonceProvider(store, key).next()
        os.truncate(path_of(database), 0)
        ours = NonceProvider(store, "three")
        ours.next()
        with closing(sqlite3.connect(database)) as hand:
            hand.execute("CREATE TEMP TABLE old AS SELECT * FROM keys")
            with SQLiteStore(database) as other:
                NonceProvider(other, "three").next()
                hand.executescript(
                    "DELETE FROM keys; INSERT INTO keys SELECT * FROM old"
                )
                with pytest.raises(StoreRolledBackError):
                    NonceProvider(other, "three").next()
        with pytest.raises(StoreRolledBackError):
            ours.next()


def test_older_copy_is_refused(database: Path) -> None:
    """An older copy in the database's place is refused by a new process, for each key that went on (fault A12)."""
    with SQLiteStore(database) as store:
        ahead, quiet = NonceProvider(store, "ahead"), NonceProvider(store, "quiet")
        ahead.next(), quiet.next()
    older = database.read_bytes()
    with SQLiteStore(database) as store:
        NonceProvider(store, "ahead").next()
    database.write_bytes(older)
    with SQLiteStore(database) as store:
        with pytest.raises(StoreRolledBackError, match="persistent-nonce recover"):
            NonceProvider(store, "ahead").next()
        assert NonceProvider(store, "quiet").next()


@pytest.mark.parametrize("left", [None, b""])
def test_lost_database_is_not_made_anew(database: Path, left: bytes | None) -> None:
    """A database that is missing or empty beside its marks is damage, not a fresh start (faults A11, A12)."""
    with SQLiteStore(database) as store:
        NonceProvider(store, "k").next()
    database.unlink()
    if left is not None:
        database.write_bytes(left)
        database.chmod(0o600)
    with pytest.raises(StoreCorruptError, match="missing or empty"):
        SQLiteStore(database)
    assert database.exists() == (left is not None)


def test_deleted_marks_are_noticed(database: Path) -> None:
    """Marks that are deleted while in use stop their users; a new process makes them anew (fault A13)."""
    with SQLiteStore(database) as store:
        provider = NonceProvider(store, "k")
        last = provider.next()
        wait_for_tick(database.parent)
        path_of(database).unlink()
        with pytest.raises(StoreReplacedError, match=r"nonces\.db\.marks"):
            provider.next()
    with SQLiteStore(database) as store:
        assert NonceProvider(store, "k").next() > last
        assert len(read_marks(path_of(database))[0]) == 1


@given(
    ahead=st.integers(-10, 10),
    ceiling=st.integers(0, 20),
    same=st.booleans(),
    units=st.tuples(st.sampled_from([*UNITS]), st.sampled_from([*UNITS])),
)
def test_woken_state_is_above_every_mark_that_is_allowed(
    ahead: int, ceiling: int, same: bool, units: tuple[str, str]
) -> None:
    """Whatever mark does not contradict a row, the next nonce of the row lies above it in time (I1, I4)."""
    unit, other = units
    now = Now(0, SECOND, "now")
    boot = "now" if same else "then"
    at = marked(1000, unit=unit, ceiling=1000 + ceiling, boot=boot)
    at = at._replace(offset=10_000)  # the clock stands at 0
    of = mark(max(0, 1000 + ahead) * UNITS[unit] // UNITS[other], other)
    if went_back(at, of, now.boot):
        return
    woken = at if same else wake(at, now).state
    taken = nonces.issue(woken, now)
    assert taken.nonce * taken.tick > of.nonce * UNITS[of.unit]
