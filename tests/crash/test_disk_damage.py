"""Damage to a database and its log, by bits and in pieces: no harm, or refused with the way out; no nonce is lower."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.errors import StoreCorruptError, StoreError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.rebuild import rebuild
from persistent_nonce.stores.schema import PAGE
from tests.support import databases
from tests.support.disk_faults import beside
from tests.support.disk_ledger import KEYS, Ledger, findings
from tests.support.disk_surgeon import Patient, flip, operate
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.processes import Children

pytestmark = pytest.mark.timeout(LONG)

children = databases.children


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    """Return a database to be damaged."""
    return Patient(tmp_path)


def cure(path: Path, ledger: Ledger, refused: list[StoreError], what: object) -> None:
    """Where programs are refused, doctor names it and recover rebuilds; then all goes on above what was issued."""
    if refused:
        found = findings(path)
        assert any("persistent-nonce recover" in finding for finding in found), what
        assert rebuild(path, shared=False) is not None, what
        assert rebuild(path, shared=False) is None
    ledger.open_and_take(path)


def test_flipped_bits_between_runs(patient: Patient) -> None:
    """A bit that flips in a database or its log while nobody runs does no harm or is refused (I1, I9; fault A11)."""
    seen: Counter[str] = Counter()
    for trial in range(times(60, 1500)):
        ledger = patient.copy(log=trial % 3 > 0)
        where = patient.bit(random.Random(trial))
        flip(*where)
        refused = ledger.open_and_attempt(patient.path, 2)
        cure(patient.path, ledger, refused, where)
        seen += ledger.refused or Counter(harmless=1)
    figure("bits flipped between runs", dict(seen))


def test_flipped_bits_of_a_database_in_use(
    patient: Patient, children: Children
) -> None:
    """A bit that flips under a process that goes on does no harm or is refused, then and later (I1, I9; fault A11)."""
    surgeon = children.call(operate)
    seen: Counter[str] = Counter()
    for trial in range(times(40, 1500)):
        ledger = patient.copy()
        with SQLiteStore(patient.path) as store:
            ledger.take(store)
            where = patient.flip_by(surgeon, random.Random(trial))
            ledger.attempt(store, 2)
            ledger.open_and_attempt(patient.path)
            ledger.attempt(store, 2)
        refused = ledger.open_and_attempt(patient.path, 2)
        cure(patient.path, ledger, refused, where)
        seen += ledger.refused or Counter(harmless=1)
    figure("bits flipped in use", dict(seen))


@pytest.mark.parametrize("bit", range(48))
def test_flipped_bit_of_a_nonce_in_use(patient: Patient, bit: int) -> None:
    """Each bit that flips in a stored nonce under a process is refused, or written over with the right one (A11)."""
    ledger, key = patient.copy(), fingerprint(KEYS[0])
    with SQLiteStore(patient.path) as store, SQLiteStore(patient.path) as other:
        ledger.take(store)
        with closing(sqlite3.connect(patient.path)) as hand, hand:
            flipped = f"(nonce | {1 << bit}) - (nonce & {1 << bit})"
            hand.execute(f"UPDATE keys SET nonce = {flipped} WHERE key = ?", (key,))  # noqa: S608 - numbers only
        errors = ledger.attempt(other)
        assert [type(error) for error in errors] == [StoreCorruptError]
        assert "persistent-nonce recover" in errors[0].hint
        ledger.attempt(store)
    cure(patient.path, ledger, ledger.open_and_attempt(patient.path), bit)


# --- damage in pieces


def _header(path: Path, dice: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(dice.randbytes(100) + content[100:])


def _page(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = dice.randrange(len(content) // PAGE) * PAGE
    content[start : start + PAGE] = dice.randbytes(PAGE)
    path.write_bytes(content)


def _zeros(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = dice.randrange(len(content) // PAGE) * PAGE
    content[start : start + PAGE] = bytes(PAGE)
    path.write_bytes(content)


def _truncated(path: Path, dice: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(dice.choice([0, 1, 100, dice.randrange(path.stat().st_size)]))


PIECES: Final = {"header": _header, "page": _page, "zeros": _zeros, "cut": _truncated}


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("damage", PIECES.values(), ids=PIECES)
def test_damaged_pieces(
    patient: Patient, damage: Callable[[Path, random.Random], None], log: bool
) -> None:
    """A header or page of noise or zeros, and a cut file, are refused as damage, never begun anew (I9; fault A11)."""
    survived: Counter[int] = Counter()
    for trial in range(times(4, 25)):
        ledger = patient.copy(log=log)
        damage(patient.path, random.Random(trial))
        before = patient.path.read_bytes()
        refused = ledger.open_and_attempt(patient.path)
        for error in refused:
            assert "persistent-nonce recover" in error.hint, (trial, error)
        if refused and not log:
            assert patient.path.read_bytes() == before  # only recover may change it
        cure(patient.path, ledger, refused, trial)
        unread = _count_calls(patient.path, survived)
        if unread:  # a page of the records alone, which no nonce looks at
            cure(patient.path, ledger, unread, trial)
            assert not _count_calls(patient.path, survived)
    figure("call records that survived", dict(survived))
    assert max(survived) <= patient.calls


def _count_calls(path: Path, counts: Counter[int]) -> list[StoreError]:
    """Count the call records of the first key; return the error if they cannot be read."""
    with SQLiteStore(path) as store:
        try:
            counts[len(store.calls(fingerprint(KEYS[0])))] += 1
        except StoreCorruptError as error:
            return [error]
    return []


def test_records_of_calls_survive(patient: Patient) -> None:
    """A row or a mark that is damaged costs no record of a call (fault A11)."""
    for damage in (
        lambda path: beside(path, ".marks").write_bytes(b"damage" * 20),
        lambda path: _set_nonce(path, 5),
    ):
        ledger = patient.copy()
        damage(patient.path)
        rebuilt = rebuild(patient.path, shared=False)
        assert rebuilt is not None
        assert rebuilt.calls == patient.calls
        with SQLiteStore(patient.path) as store:
            calls = store.calls(fingerprint(KEYS[0]))
            assert [call.outcome for call in calls] == ["ok"] * patient.calls
            ledger.take(store)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("name", ["calls_of_key", "store", "_sqlite_migrations"])
def test_all_that_can_be_read_survives(patient: Patient, name: str, log: bool) -> None:
    """A page that is lost takes nothing with it that lies on others: rows, settings and calls (I10; fault A11)."""
    ledger = patient.copy(log=log)
    with closing(sqlite3.connect(patient.path)) as look:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        ((page,),) = look.execute(query, (name,)).fetchall()
    content = bytearray(patient.path.read_bytes())
    content[(page - 1) * PAGE : page * PAGE] = random.Random(page).randbytes(PAGE)
    patient.path.write_bytes(content)
    assert any("is damaged" in found for found in findings(patient.path))
    rebuilt = rebuild(patient.path, shared=False)
    assert rebuilt is not None
    assert rebuilt.calls == patient.calls - (not log)  # the last one lay in the log
    assert [key.state.label for key in rebuilt.keys] == sorted(KEYS, key=fingerprint)
    assert all(key.before and key.mark for key in rebuilt.keys)
    ledger.open_and_take(patient.path)


def _set_nonce(path: Path, nonce: int) -> None:
    with closing(sqlite3.connect(path)) as hand, hand:
        hand.execute("UPDATE keys SET nonce = ?", (nonce,))
