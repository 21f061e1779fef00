"""The marks beside a database: what they remember, and when they contradict it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
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
from persistent_nonce.state import MAX_NONCE, UNITS, Changed, KeyState, fingerprint
from persistent_nonce.stores.marks import Marks, path_of, read_marks, refuse_loss
from persistent_nonce.stores.rebuild import rebuild
from persistent_nonce.stores.slots import Mark, went_back
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock
from tests.support.files import wait_for_tick

KEY = "0123456789abcdef"


def state(
    nonce: int, *, key: str = KEY, unit: str = "ns", ceiling: int = 0, boot: str = ""
) -> KeyState:
    """Return a state with a mark."""
    return KeyState(key, unit=unit, nonce=nonce, ceiling=ceiling, boot=boot)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of a database that does not exist."""
    tmp_path.chmod(0o700)
    return tmp_path / "nonces.db"


@pytest.fixture
def marks(database: Path) -> Iterator[Marks]:
    """Yield open marks."""
    marks = Marks(database, shared=False)
    marks.open()
    yield marks
    marks.close()


def keys(number: int) -> list[str]:
    """Return so many fingerprints."""
    return [fingerprint(f"key {i}") for i in range(number)]


# --- the file


def test_what_is_written_is_found(marks: Marks, database: Path) -> None:
    """Each key has a slot, which is found by this process, by others and by who only reads."""
    names = keys(300)  # more than the file begins with
    for number, key in enumerate(names):
        assert marks.find(key) is None
        marks.write(state(number, key=key), number + 1)
        marks.write(state(number + 7, key=key, unit="ms"), number + 2)
    expected = {
        key: Mark(key, number + 2, number + 7, "ms") for number, key in enumerate(names)
    }
    again = Marks(database, shared=False)
    again.open()
    assert {key: again.find(key) for key in names} == expected
    assert {key: marks.find(key) for key in names} == expected
    assert read_marks(path_of(database)) == (expected, 0)
    again.close()


def test_two_processes_take_different_slots(marks: Marks, database: Path) -> None:
    """Keys that come by turns from two sides never share a slot."""
    other = Marks(database, shared=False)
    other.open()
    names = keys(300)
    for number, key in enumerate(names):
        (marks, other)[number % 2].write(state(number, key=key), 1)
    found, _ = read_marks(path_of(database))
    assert [found[key].nonce for key in names] == list(range(300))
    other.close()


@given(
    nonce=st.integers(0, MAX_NONCE),
    revision=st.integers(0, 2**63 - 1),
    unit=st.sampled_from([*UNITS]),
)
def test_any_mark_survives(
    tmp_path_factory: pytest.TempPathFactory, nonce: int, revision: int, unit: str
) -> None:
    """Whatever the numbers, what is read is what was written."""
    database = tmp_path_factory.mktemp("marks") / "n.db"
    marks = Marks(database, shared=False)
    marks.open()
    marks.write(state(nonce, unit=unit), revision)
    assert marks.find(KEY) == Mark(KEY, revision, nonce, unit)
    marks.close()


@pytest.mark.parametrize("bit", range(32 * 8))
def test_each_flipped_bit_is_noticed(marks: Marks, database: Path, bit: int) -> None:
    """A mark with any of its bits flipped is not believed, and refuses whose it may be, no other (I9; fault A11)."""
    other, stranger = keys(2)
    marks.write(state(5), 1)
    marks.write(state(7, key=other), 1)
    content = bytearray(path_of(database).read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path_of(database).write_bytes(content)
    assert read_marks(path_of(database)) == ({other: Mark(other, 1, 7, "ns")}, 1)
    newcomer = Marks(database, shared=False)
    newcomer.open()
    for each in (marks, newcomer):
        for key in (KEY, stranger):
            with pytest.raises(StoreCorruptError) as caught:
                each.find(key)
            assert "persistent-nonce recover" in caught.value.hint
        assert each.find(other) == Mark(other, 1, 7, "ns")
    newcomer.close()


@pytest.mark.parametrize("size", [0, 1, 40, 64, 4095])
def test_cut_file_goes_on(marks: Marks, database: Path, size: int) -> None:
    """A file that was cut while it is open gives no mark of one key for another's, and takes new ones (fault A13)."""
    names = keys(200)
    for number, key in enumerate(names):
        marks.write(state(number, key=key), 1)
    os.truncate(path_of(database), size)
    other = Marks(database, shared=False)
    other.open()
    newcomers = [fingerprint(f"new {number}") for number in range(50)]
    for number, key in enumerate(newcomers):
        other.write(state(1000 + number, key=key), 1)
    in_pieces = size % 32 > 0
    for number, key in enumerate(names):
        if number < size // 32:
            assert marks.find(key) == Mark(key, 1, number, "ns")
        elif in_pieces:
            with pytest.raises(StoreCorruptError):
                marks.find(key)
        else:
            assert marks.find(key) is None
    for number, key in enumerate(names):
        marks.write(state(2000 + number, key=key), 2)
        assert marks.find(key) == Mark(key, 2, 2000 + number, "ns")
    for number, key in enumerate(newcomers):
        assert marks.find(key) == Mark(key, 1, 1000 + number, "ns")
    other.close()


@pytest.mark.parametrize("seen_before", [False, True])
def test_emptied_file_has_one_slot_a_key(
    marks: Marks, database: Path, seen_before: bool
) -> None:
    """Who remembers slots of a file that was emptied since writes no key where nobody else finds it (fault A13)."""
    *names, late = keys(4)
    for key in (*names, late)[: None if seen_before else -1]:
        marks.write(state(1, key=key), 1)
    os.truncate(path_of(database), 0)
    assert marks.find(late) is None
    marks.write(state(5, key=late), 2)
    other = Marks(database, shared=False)
    other.open()
    assert other.find(late) == Mark(late, 2, 5, "ns")
    other.write(state(6, key=late), 3)
    assert marks.find(late) == Mark(late, 3, 6, "ns")
    content = path_of(database).read_bytes()
    assert content.count(bytes.fromhex(late)) == 1
    assert read_marks(path_of(database)) == ({late: Mark(late, 3, 6, "ns")}, 0)
    other.close()


def test_a_file_that_others_began_anew(marks: Marks, database: Path) -> None:
    """A key that is new here is found in a slot that was another's before the file was begun anew (I9; fault A13)."""
    old, new = keys(6)[:2], keys(6)[2:]
    for key in old:
        assert marks.find(key) is None
        marks.write(state(1, key=key), 1)
    assert marks.find(new[0]) is None  # by now it knows whose the slots are
    os.truncate(path_of(database), 0)
    other = Marks(database, shared=False)
    other.open()
    for key in new:
        assert other.find(key) is None
        other.write(state(7, key=key), 2)
    assert [marks.find(key) for key in new] == [Mark(key, 2, 7, "ns") for key in new]
    for key in old:
        assert marks.find(key) is None
        marks.write(state(8, key=key), 3)
    assert len(read_marks(path_of(database))[0]) == 6
    other.close()


def test_a_damaged_slot_before_a_hole(marks: Marks, database: Path) -> None:
    """A damaged slot refuses its key again and again, whatever else is wrong with the file (I9; fault A11)."""
    names = keys(4)
    for key in names:
        marks.write(state(1, key=key), 1)
    content = bytearray(path_of(database).read_bytes())
    content[32 + 20] ^= 1
    content[64:96] = bytes(32)
    path_of(database).write_bytes(content)
    other = Marks(database, shared=False)
    other.open()
    for _ in range(3):
        with pytest.raises(StoreCorruptError):
            other.find(names[1])
    other.close()


@pytest.mark.parametrize("last", [0, 1])
def test_greater_of_two_marks_counts(database: Path, last: int) -> None:
    """Of two slots of a key the greater mark is the truth, in whatever units, wherever it lies (I1; fault A13)."""
    greater, lower = state(8, unit="ms"), state(7_999_999, unit="ns")
    path = path_of(database)
    slots = []
    for each in (greater, lower):
        marks = Marks(database, shared=False)
        marks.open()
        marks.write(each, 1)
        slots.append(path.read_bytes()[:32])
        marks.close()
        os.truncate(path, 0)
    hole = bytes(64)
    path.write_bytes(hole + slots[last] + slots[1 - last])
    assert read_marks(path)[0] == {KEY: Mark(KEY, 1, 8, "ms")}
    marks = Marks(database, shared=False)
    marks.open()
    assert marks.find(KEY) == Mark(KEY, 1, 8, "ms")
    marks.write(state(9, unit="ms"), 2)
    assert read_marks(path)[0] == {KEY: Mark(KEY, 2, 9, "ms")}
    marks.close()


def test_missing_file_has_no_marks(tmp_path: Path) -> None:
    """Where there are no marks, nothing is known, and nothing was lost."""
    assert read_marks(tmp_path / "nonces.db.marks") == ({}, 0)
    refuse_loss(tmp_path / "nonces.db")


# --- what contradicts them


def mark(nonce: int, unit: str = "ns") -> Mark:
    """Return a mark."""
    return Mark(KEY, 1, nonce, unit)


def test_a_database_that_went_back() -> None:
    """In one boot the row is never below its mark; after another it may be, as far as its ceiling (I4)."""
    at = state(100, ceiling=150, boot="this")
    assert not went_back(at, mark(100), "this")
    assert went_back(at, mark(101), "this")
    assert not went_back(at, mark(150), "next")
    assert went_back(at, mark(151), "next")
    assert went_back(KeyState(KEY), mark(1), "this")


def test_marks_of_another_unit() -> None:
    """A mark counts in its own unit: one from before a change of unit lies where it lay."""
    at = state(7_000_000, unit="ns", boot="b")
    assert not went_back(at, mark(7, "ms"), "b")
    assert went_back(at, mark(8, "ms"), "b")
    back = state(7, unit="ms", boot="b")
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
    at = state(1000, unit=unit, ceiling=1000 + ceiling, boot=boot)
    at = at._replace(offset=10_000)  # the clock stands at 0
    of = mark(max(0, 1000 + ahead) * UNITS[unit] // UNITS[other], other)
    if went_back(at, of, now.boot):
        return
    woken = at if same else wake(at, now).state
    taken = nonces.issue(woken, now)
    assert taken.nonce * taken.tick > of.nonce * UNITS[of.unit]
