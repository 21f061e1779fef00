"""Each file of a database deleted, renamed, replaced, emptied, cut, damaged or set back: no nonce is ever lower."""

from __future__ import annotations

import random
import zlib
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce.stores.marks import path_of, read_marks
from persistent_nonce.stores.rebuild import rebuild
from tests.support import databases
from tests.support.disk_actor import Crew
from tests.support.disk_faults import FAULTS, MOVING, Older, beside
from tests.support.disk_ledger import KEYS, findings
from tests.support.faulting_sizes import LONG, times
from tests.support.files import wait_for_tick

pytestmark = pytest.mark.timeout(LONG)

path = databases.path

#: The database, and what lies beside it; the log and its index also together.
FILES: Final = {
    "database": [""],
    "wal": ["-wal"],
    "shm": ["-shm"],
    "wal and shm": ["-wal", "-shm"],
    "marks": [".marks"],
    "lock": [".lock"],
}

CASES: Final = [
    pytest.param(name, fault, id=f"{name} {fault}")
    for name in FILES
    for fault in FAULTS
    if name != "lock" or fault in MOVING  # it is empty
]


def harm(crew: Crew, older: Older, name: str, fault: str, dice: random.Random) -> None:
    """Do to the files what the case is about."""
    wait_for_tick(crew.path.parent)
    for suffix in FILES[name]:
        file = beside(crew.path, suffix)
        FAULTS[fault](file, older.of(file), dice)


def mend(crew: Crew) -> None:
    """Where a new program is refused doctor says why; recover rebuilds, and then all goes on above (I10)."""
    refused = crew.newcomer()
    crew.dismiss()
    found = findings(crew.path)
    if refused:
        assert all("persistent-nonce recover" in error for error in refused)
        assert found, refused
    if found:
        assert any("persistent-nonce recover" in finding for finding in found)
        assert rebuild(crew.path, shared=False) is not None
    assert crew.newcomer() == []
    crew.dismiss()
    assert findings(crew.path) == []
    assert rebuild(crew.path, shared=False) is None


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_while_running(path: Path, tmp_path: Path, name: str, fault: str) -> None:
    """Of two programs in use none goes on with other files, a newcomer is above all or refuses (I1, I9; A12, A13)."""
    for trial in range(times(1, 20)):
        dice = random.Random(zlib.crc32(f"{name} {fault} {trial}".encode()))
        place = tmp_path / str(trial)
        place.mkdir(0o700)
        with Crew(place / "nonces.db") as crew:
            ann, ben = crew.open(), crew.open()
            ann.begin()
            older = Older(crew.path, tmp_path / f"older {trial}")
            if dice.random() < 0.5:
                ann.begin()  # above what a ceiling of the older files covers
            for user in (ann, ben, ann)[dice.randrange(3) :]:
                assert user.take(dice.randint(1, 30)) == []
                if dice.random() < 0.3:
                    user.checkpoint()
            harm(crew, older, name, fault, dice)
            for user in (ann, ben, ann):
                errors = user.take()
                if fault in MOVING:
                    assert len(errors) == len(KEYS)
                    for error in errors:
                        assert error.startswith("StoreReplacedError: ")
                    crew.newcomer()
                else:
                    crew.newcomer()
            ben.kill()
            ann.close()
            mend(crew)


@pytest.mark.parametrize(("name", "fault"), CASES)
@pytest.mark.parametrize("end", ["killed", "closed"])
def test_between_runs(
    path: Path, tmp_path: Path, name: str, fault: str, end: str
) -> None:
    """A program that comes after one that was killed or ended is above all before, or refuses (I1, I9; A12, A13)."""
    for trial in range(times(1, 20)):
        dice = random.Random(zlib.crc32(f"{name} {fault} {end} {trial}".encode()))
        place = tmp_path / str(trial)
        place.mkdir(0o700)
        with Crew(place / "nonces.db") as crew:
            first = crew.open()
            first.begin()
            older = Older(crew.path, tmp_path / f"older {trial}")
            if dice.random() < 0.5:
                first.begin()  # above what a ceiling of the older files covers
            assert first.take(dice.randint(1, 30)) == []
            if dice.random() < 0.3:
                first.checkpoint()
                assert first.take(dice.randint(1, 3)) == []
            first.kill() if end == "killed" else first.close()
            harm(crew, older, name, fault, dice)
            mend(crew)
            assert len(read_marks(path_of(crew.path))[0]) == len(KEYS)
