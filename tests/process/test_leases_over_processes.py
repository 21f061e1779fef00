"""Blocks of nonces beside whatever else happens to a key, over live processes, and over files that are replaced."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.errors import StoreReplacedError
from tests.support import databases
from tests.support.bursting import FLOORS, burst, burst_on, change_on
from tests.support.checker import Operation, read_logs, violations
from tests.support.clocks import StillClock
from tests.support.processes import Child, Children, begin
from tests.support.workers import KEY

path, clock = databases.path, databases.clock

PROCESSES = 4
EACH = 20_000
KILLS = 10


def _changes(path: Path) -> int:
    """Return how often the key's row was written."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT revision FROM keys").fetchone()[0])


def _below_floors(history: Iterable[Operation], floors: list[Operation]) -> list[str]:
    """Return the nonces that were asked for after a floor above them had been set."""
    floors.sort(key=lambda floor: floor.returned)
    found, passed, greatest = [], 0, 0
    for operation in sorted(history):
        while passed < len(floors) and floors[passed].returned < operation.call:
            greatest = max(greatest, floors[passed].value)
            passed += 1
        if operation.value <= greatest:
            found.append(f"{operation} is not above the floor {greatest}")
    return found


def test_bursts_of_four_processes(tmp_path: Path) -> None:
    """Four processes take 20,000 nonces each, in bursts: far fewer changes, all new, none below one before (I1, I2)."""
    path = tmp_path / "nonces.db"
    with Children() as children:
        started = [
            children.call(burst, path, tmp_path / f"{number}.log", EACH)
            for number in range(PROCESSES)
        ]
        begin(started)
        for child in started:
            child.result()
    history = read_logs(tmp_path)
    assert len(history) == PROCESSES * EACH
    assert violations(history) == []
    assert _changes(path) < len(history) // 2  # blocks were really in use


@pytest.mark.timeout(300)  # a guard
def test_bursts_beside_all_other_changes_and_kills(tmp_path: Path) -> None:
    """Bursts beside calls, reservations, floors and SIGKILLs: all nonces are new and in order (I1, I2, I3, I10)."""
    path = tmp_path / "nonces.db"
    chance = random.Random(11)
    works: list[Callable[[str, str], None]]
    works = [*[burst_on] * PROCESSES, *[change_on] * 2]
    with Children() as children:

        def start(number: int) -> Child:
            work = works[number % len(works)]
            return children.call(work, path, tmp_path / f"{number}.log")

        running = [start(number) for number in range(len(works))]
        for child in running:
            child.wait_for("ready")
        for kill in range(KILLS):
            time.sleep(chance.uniform(0, 0.2))  # the kill is to strike anywhere
            place = chance.randrange(len(works))
            running[place].kill()
            running[place] = start(len(works) * (kill + 1) + place)
            running[place].wait_for("ready")
        for child in running:
            child.kill()
    history, floors = read_logs(tmp_path), read_logs(tmp_path / FLOORS)
    with SQLiteStore(path, timeout=60) as store:
        last = NonceProvider(store, KEY).next()
    assert last > max(operation.value for operation in history)
    assert violations(history) == []
    assert floors
    assert _below_floors(history, floors) == []
    assert _changes(path) < len(history) // 2  # blocks were really in use


def _bursting(store: SQLiteStore) -> NonceProvider:
    """Return a provider with half of a block."""
    provider = NonceProvider(store, KEY, unit="ns")
    drawn = [provider.next() for _ in range(30)]
    assert drawn[-1] < store.read(provider.key).nonce
    return provider


def _replace_lock(path: Path) -> None:
    lock = path.with_name(f"{path.name}.lock")
    lock.unlink()
    lock.touch(0o600)


def test_a_block_under_a_lock_that_was_replaced(path: Path, clock: StillClock) -> None:
    """Who has a block from before the lock file was replaced hands out nothing below what came after (I2; A13)."""
    with SQLiteStore(path, clock=clock) as store:
        provider = _bursting(store)
        _replace_lock(path)
        last = provider.next()  # of the block still: nobody else has come
        with SQLiteStore(path, clock=clock) as second:
            assert NonceProvider(second, KEY).next() > last
            with pytest.raises(StoreReplacedError):
                provider.next()


def _draw_until(provider: NonceProvider, others: list[int]) -> None:
    while not others:
        provider.next()


def test_a_lock_replaced_while_a_block_is_taken(path: Path, clock: StillClock) -> None:
    """Of two holders the first, whose mark comes late and hides the second's, gets no block (I1, I2; A13)."""
    with SQLiteStore(path, clock=clock) as store:
        provider = _bursting(store)
        marks: Any = store._writer._marks
        write = marks.write
        others: list[int] = []

        def late(state: Any, revision: int) -> None:
            marks.write = write
            _replace_lock(path)
            with SQLiteStore(path, clock=clock) as second:
                others.append(NonceProvider(second, KEY).next())
            write(state, revision)

        marks.write = late
        with pytest.raises(StoreReplacedError):
            _draw_until(provider, others)


def test_marks_made_anew_while_a_block_is_in_use(tmp_path: Path) -> None:
    """Who makes marks anew that were deleted has no nonce before bursts by the old ones have ended (I2; A13)."""
    path = tmp_path / "nonces.db"
    for number in range(6):
        with Children() as children:
            child = children.call(burst_on, path, tmp_path / f"{number}.log")
            child.wait_for("ready")
            time.sleep(0.05)
            call = time.monotonic_ns()
            path.with_name("nonces.db.marks").unlink()
            with SQLiteStore(path, timeout=60) as store:
                value = NonceProvider(store, KEY).next()
            operation = Operation(call, time.monotonic_ns(), value)
            with pytest.raises(ChildProcessError):  # told that the marks are others
                child.result()
        history = [*read_logs(tmp_path), operation]
        assert len(history) > 1
        assert violations(history) == []
