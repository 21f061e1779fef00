"""Lock or marks replaced under programs at work, and copies made under load and put back: no nonce is lower."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.errors import StoreError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.rebuild import rebuild
from tests.support import databases
from tests.support.checker import read_logs, violations
from tests.support.clocks import StillClock
from tests.support.disk_actor import Crew
from tests.support.disk_faults import FAULTS, MOVING, beside
from tests.support.disk_ledger import KEYS, findings
from tests.support.disk_traffic import back_up, draw_through, set_ahead
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.files import wait_for_tick
from tests.support.processes import Children
from tests.support.workers import KEY, draw_on

pytestmark = pytest.mark.timeout(LONG)

path, children = databases.path, databases.children

#: Ways to have another file, or none, under a name; there is no older lock.
MOVES: Final = [name for name in MOVING if not name.startswith("older")]


@pytest.mark.parametrize("suffix", [".lock", ".marks"])
def test_replaced_under_traffic(path: Path, children: Children, suffix: str) -> None:
    """However often lock or marks are replaced amid traffic, nonces stay unique and in order (I1, I2; fault A13)."""
    logs = [path.parent / f"{name}.log" for name in ("ann", "ben", "cat")]
    workers = [children.call(draw_through, path, log) for log in logs]
    while not all(log.exists() and log.stat().st_size for log in logs):
        time.sleep(0.01)  # until all are at work; pytest's timeout is the guard
    dice = random.Random(suffix)
    kicks = times(20, 160)
    for _ in range(kicks):
        file = beside(path, suffix)
        FAULTS[dice.choice(MOVES)](file, file, dice)
        time.sleep(dice.uniform(0.0, 0.04))
    for log in logs:
        Path(f"{log}.end").touch()
    taken = [worker.result() for worker in workers]
    history = read_logs(path.parent)
    figure(f"nonces while {suffix} was replaced {kicks} times", taken)
    assert violations(history) == []
    assert sum(told.get("StoreReplacedError", 0) for _, told in taken) > 0
    with SQLiteStore(path, clock=StillClock()) as store:
        last = max(operation.value for operation in history)
        assert NonceProvider(store, KEY).next() > last


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("suffix", [".lock", ".marks"])
def test_replaced_under_a_call(path: Path, suffix: str, move: str) -> None:
    """Who has or awaits a turn while lock or marks are replaced sends no more, and nobody overtakes (I5; A13)."""
    for trial in range(times(1, 20)):
        (path.parent / str(trial)).mkdir(0o700)
        with Crew(path.parent / str(trial) / "nonces.db") as crew:
            ann, ben, cat = crew.open(), crew.open(), crew.open()
            ann.begin()
            assert ann.enter() == []
            ben.wait()
            wait_for_tick(crew.path.parent)
            file = beside(crew.path, suffix)
            FAULTS[move](file, file, random.Random(trial))
            (told,) = ben.answer()
            assert told.startswith("StoreReplacedError: ")
            (told,) = cat.enter()
            assert told.startswith("StoreReplacedError: ")
            newcomer = crew.open()
            (told,) = newcomer.enter()
            assert told.startswith("GateTimeoutError: ")  # the call in flight is known
            ann.leave()
            (told,) = ann.enter()
            assert told.startswith("StoreReplacedError: ")
            for user in (ann, ben, cat):
                user.kill()
            assert newcomer.enter() == []
            assert newcomer.leave() == []


@pytest.mark.parametrize("end", ["killed", "closed"])
@pytest.mark.parametrize("way", ["sqlite", "plain", "with log"])
def test_copy_made_under_load(
    path: Path, children: Children, way: str, end: str
) -> None:
    """A copy made under load and put back is refused until recover has rebuilt it, above all issued (I10; A32)."""
    for trial in range(times(1, 4)):
        place = path.parent / str(trial)
        place.mkdir(0o700)
        source, copy = place / "nonces.db", path.parent / f"copy {trial}"
        set_ahead(str(source))
        workers = [
            children.call(draw_on, source, place / f"{number}.log")
            for number in range(2)
        ]
        for worker in workers:
            worker.wait_for("ready")
        _wait_for_more(place, 200)
        back_up(str(source), str(copy), way)
        _wait_for_more(place, 200)
        for worker in workers:
            worker.kill()
        if end == "closed":
            SQLiteStore(source).close()
        greatest = max(operation.value for operation in read_logs(place))
        _put_back(source, copy)
        with pytest.raises(StoreError) as caught, SQLiteStore(source) as store:
            NonceProvider(store, KEY).next()
        assert "persistent-nonce recover" in caught.value.hint
        assert any("persistent-nonce recover" in found for found in findings(source))
        assert rebuild(source, shared=False) is not None
        assert findings(source) == []
        with SQLiteStore(source) as store:
            assert NonceProvider(store, KEY).next() > greatest
        for file in place.iterdir():
            file.unlink() if file.is_file() else shutil.rmtree(file)


def test_copy_without_its_marks(path: Path, tmp_path: Path) -> None:
    """A copy without marks goes on above all by the floor that is documented: clock and 15 minutes (I10; A32)."""
    for trial in range(times(2, 20)):
        place = tmp_path / f"old {trial}"
        place.mkdir(0o700)
        with Crew(place / "nonces.db") as crew:
            actor = crew.open()
            actor.begin()
            copy = tmp_path / f"copy {trial}"
            back_up(str(crew.path), str(copy), "sqlite")
            assert actor.take(50) == []
            actor.close()
            greatest = crew.ledger.greatest
        new = tmp_path / f"new {trial}"
        new.mkdir(0o700)
        copy.chmod(0o600)
        with SQLiteStore(copy.rename(new / "nonces.db")) as store:
            for key in KEYS:
                provider = NonceProvider(store, key)
                provider.raise_floor(time.time_ns() + 900 * 10**9)
                assert provider.next() > greatest[key]
            assert len(store.calls(fingerprint(KEYS[0]))) == 1


def _wait_for_more(place: Path, count: int) -> None:
    """Wait until so many more nonces were taken; pytest's timeout is the guard."""
    begun = len(read_logs(place))
    while len(read_logs(place)) < begun + count:
        time.sleep(0.01)


def _put_back(source: Path, copy: Path) -> None:
    """Put a copy in the place of a database, as the documentation says, with the log that was copied with it."""
    for suffix in ("", "-wal", "-shm"):
        beside(source, suffix).unlink(missing_ok=True)
    for suffix in ("", "-wal"):
        file = beside(copy, suffix)
        if file.exists():
            file.rename(beside(source, suffix)).chmod(0o600)
