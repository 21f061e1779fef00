"""The file of marks beside a database: what is written is found, and damage is noticed, cut or emptied as it may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce.errors import StoreCorruptError
from persistent_nonce.state import MAX_NONCE, UNITS, fingerprint
from persistent_nonce.stores.marks import Marks, path_of, read_marks, refuse_loss
from persistent_nonce.stores.slots import Mark
from tests.support import databases
from tests.support.states import KEY, marked

database = databases.path


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


def test_what_is_written_is_found(marks: Marks, database: Path) -> None:
    """Each key has a slot, which is found by this process, by others and by who only reads."""
    names = keys(300)  # more than the file begins with
    for number, key in enumerate(names):
        assert marks.find(key) is None
        marks.write(marked(number, key=key), number + 1)
        marks.write(marked(number + 7, key=key, unit="ms"), number + 2)
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
        (marks, other)[number % 2].write(marked(number, key=key), 1)
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
    marks.write(marked(nonce, unit=unit), revision)
    assert marks.find(KEY) == Mark(KEY, revision, nonce, unit)
    marks.close()


@pytest.mark.parametrize("bit", range(32 * 8))
def test_each_flipped_bit_is_noticed(marks: Marks, database: Path, bit: int) -> None:
    """A mark with any of its bits flipped is not believed, and refuses whose it may be, no other (I9; fault A11)."""
    other, stranger = keys(2)
    marks.write(marked(5), 1)
    marks.write(marked(7, key=other), 1)
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
        marks.write(marked(number, key=key), 1)
    os.truncate(path_of(database), size)
    other = Marks(database, shared=False)
    other.open()
    newcomers = [fingerprint(f"new {number}") for number in range(50)]
    for number, key in enumerate(newcomers):
        other.write(marked(1000 + number, key=key), 1)
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
        marks.write(marked(2000 + number, key=key), 2)
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
        marks.write(marked(1, key=key), 1)
    os.truncate(path_of(database), 0)
    assert marks.find(late) is None
    marks.write(marked(5, key=late), 2)
    other = Marks(database, shared=False)
    other.open()
    assert other.find(late) == Mark(late, 2, 5, "ns")
    other.write(marked(6, key=late), 3)
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
        marks.write(marked(1, key=key), 1)
    assert marks.find(new[0]) is None  # by now it knows whose the slots are
    os.truncate(path_of(database), 0)
    other = Marks(database, shared=False)
    other.open()
    for key in new:
        assert other.find(key) is None
        other.write(marked(7, key=key), 2)
    assert [marks.find(key) for key in new] == [Mark(key, 2, 7, "ns") for key in new]
    for key in old:
        assert marks.find(key) is None
        marks.write(marked(8, key=key), 3)
    assert len(read_marks(path_of(database))[0]) == 6
    other.close()


def test_a_damaged_slot_before_a_hole(marks: Marks, database: Path) -> None:
    """A damaged slot refuses its key again and again, whatever else is wrong with the file (I9; fault A11)."""
    names = keys(4)
    for key in names:
        marks.write(marked(1, key=key), 1)
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
    greater, lower = marked(8, unit="ms"), marked(7_999_999, unit="ns")
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
    marks.write(marked(9, unit="ms"), 2)
    assert read_marks(path)[0] == {KEY: Mark(KEY, 2, 9, "ms")}
    marks.close()


def test_missing_file_has_no_marks(tmp_path: Path) -> None:
    """Where there are no marks, nothing is known, and nothing was lost."""
    assert read_marks(tmp_path / "nonces.db.marks") == ({}, 0)
    refuse_loss(tmp_path / "nonces.db")
