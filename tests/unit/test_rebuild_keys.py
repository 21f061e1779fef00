"""What a key knows after its database was rebuilt: the newest of its rows, or that nobody knows its last nonce."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import KeyClosedError, NonceError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import MAX_NONCE, UNITS, KeyState, fingerprint
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.rebuilding import done, use

path = databases.path


def test_damaged_row_without_a_mark(path: Path) -> None:
    """A key of which nothing tells the last nonce is closed until its floor is raised (I9)."""
    last = use(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET nonce = 5 WHERE label = 'two label'")
    path_of(path).unlink()
    rebuilt = done(path)
    (two,) = (key for key in rebuilt.keys if not key.before)
    assert two.mark is None
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "two")
        with pytest.raises(KeyClosedError, match="raise-floor"):
            provider.next()
        provider.raise_floor(last[provider.key])
        assert provider.next() > last[provider.key]
        assert NonceProvider(store, "one").next() > last[fingerprint("one")]


def rows_twice(path: Path, damaged: bool) -> tuple[int, int]:
    """Leave two rows of a key, the newer one first, and perhaps damaged; return the nonces of both."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "one")
        older = provider.next()
        with closing(sqlite3.connect(path, isolation_level=None)) as hand:
            hand.execute("CREATE TABLE of_then AS SELECT * FROM keys")
            newer = provider.raise_floor(older + 300_000)
            hand.execute("CREATE TABLE of_now AS SELECT * FROM keys")
    with closing(sqlite3.connect(path, isolation_level=None)) as hand:
        if damaged:
            hand.execute("UPDATE of_now SET nonce = nonce - 1024")
        hand.execute("DROP TABLE keys")
        hand.execute("ALTER TABLE of_now RENAME TO keys")
        hand.execute("INSERT INTO keys SELECT * FROM of_then")
        hand.execute("DROP TABLE of_then")
    path_of(path).unlink()
    return older, newer


def test_newest_of_two_rows(path: Path) -> None:
    """Where damage left two rows of a key, it goes on above the newer one, wherever that lies (I1, I10; fault A11)."""
    older, newer = rows_twice(path, damaged=False)
    (key,) = done(path).keys
    assert key.before is not None
    assert key.before.nonce == newer > older
    with SQLiteStore(path) as store:
        assert NonceProvider(store, "one").next() > newer


def test_damaged_row_beside_an_older_one(path: Path) -> None:
    """An older row beside a damaged one does not tell the last nonce: without a mark the key is closed (I9; A11)."""
    _, newer = rows_twice(path, damaged=True)
    (key,) = done(path).keys
    assert key.before is None
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "one")
        with pytest.raises(KeyClosedError, match="raise-floor"):
            provider.next()
        provider.raise_floor(newer)
        assert provider.next() > newer


def test_unknown_key_stays_closed(path: Path) -> None:
    """A key whose last nonce nobody knows is closed by the next recover too, also if its row is lost then (I9)."""
    use(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET nonce = 5 WHERE label = 'two label'")
    path_of(path).unlink()
    done(path)
    path.unlink()
    rebuilt = done(path)
    assert [key.state.closed for key in rebuilt.keys if not key.mark] == [True]
    with SQLiteStore(path) as store:
        with pytest.raises(KeyClosedError, match="raise-floor"):
            NonceProvider(store, "two").next()
        assert NonceProvider(store, "one").next()


def test_unknown_key_stays_closed_for_who_has_looked(tmp_path: Path) -> None:
    """That nobody knows a key's last nonce outlasts a look at its row, also if the row is lost then (I9).

    Found by review: a process that was only refused put the mark right, by a row that knew less.
    """
    path = tmp_path / "nonces.db"
    rows_twice(path, damaged=True)
    done(path)
    with SQLiteStore(path) as store, pytest.raises(KeyClosedError):
        NonceProvider(store, "one").next()
    path.unlink()
    (key,) = done(path).keys
    assert key.state.closed


@given(
    nonce=st.integers(0, MAX_NONCE),
    mark=st.integers(0, MAX_NONCE),
    units=st.tuples(st.sampled_from([None, *UNITS]), st.sampled_from([*UNITS])),
    wall=st.integers(-SECOND, 2**62),
    closed=st.booleans(),
)
def test_lifted_state(
    nonce: int, mark: int, units: tuple[str | None, str], wall: int, closed: bool
) -> None:
    """A lifted mark lies above row, mark and clock in the finer of the units, and a closed key stays closed (I10)."""
    unit, other = units
    state = KeyState("k", unit=unit, nonce=nonce if unit else 0, closed=closed)
    try:
        lifted = nonces.lift(state, Now(wall, 0, "b"), other, mark)
    except NonceError:
        assert max(nonce * state.tick, mark * UNITS[other], wall) // UNITS[other] >= (
            MAX_NONCE // 10**9
        )
        return
    assert lifted.tick == min(UNITS[other], state.tick if unit else UNITS[other])
    assert lifted.closed == closed
    if lifted.nonce < MAX_NONCE - 1:
        for value, tick in ((state.nonce, state.tick), (mark, UNITS[other]), (wall, 1)):
            assert lifted.nonce >= value * tick // lifted.tick
        assert (
            lifted.nonce * lifted.tick >= mark * UNITS[other] + 5 * SECOND - lifted.tick
        )
    assert lifted.ceiling >= lifted.nonce
    assert lifted.synced == 0
