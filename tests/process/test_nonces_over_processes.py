"""Nonces over several live processes: unique, ordered, and above all before, however the processes end."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import time
from pathlib import Path

import pytest

from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.checker import read_logs, violations
from tests.support.processes import Children, begin, soak
from tests.support.workers import KEY, draw, draw_on, next_by

PROCESSES = 8
EACH = 20_000


def test_processes_draw_unique_and_ordered_nonces(tmp_path: Path) -> None:
    """8 processes take 20,000 nonces each: no two the same, none below one that was there before (I1, I2)."""
    path = tmp_path / "nonces.db"
    with Children() as children:
        started = [
            children.call(draw, path, tmp_path / f"{number}.log", EACH)
            for number in range(PROCESSES)
        ]
        begin(started)
        for child in started:
            child.result()
    history = read_logs(tmp_path)
    drawn = sorted(operation.value for operation in history)
    assert drawn == list(
        range(drawn[0], drawn[0] + PROCESSES * EACH)
    )  # their clocks stand still
    assert violations(history) == []


def test_killed_processes_leave_no_trouble(tmp_path: Path) -> None:
    """After each of 30 SIGKILLs at random moments the others and the next go on with new nonces (I1, I2, I3)."""
    path = tmp_path / "nonces.db"
    chance = random.Random(3)
    with Children() as children:
        for number in range(30):
            pair = [
                children.call(draw_on, path, tmp_path / f"{number}-{twin}.log")
                for twin in "ab"
            ]
            for child in pair:
                child.wait_for("ready")
            time.sleep(chance.uniform(0, 0.05))  # the kill is to strike anywhere
            for child in pair:
                child.kill()
            with SQLiteStore(path) as store:
                NonceProvider(store, KEY, unit="ns").next()
    history = read_logs(tmp_path)
    assert len(history) > 1_000
    assert violations(history) == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_process_after_all_others_with_its_clock_back(tmp_path: Path) -> None:
    """When all have stopped, one that starts with its clock an hour back goes on above all nonces before (I2)."""
    path = tmp_path / "nonces.db"
    with Children() as children:
        taken = [children.call(next_by, path, 0.0).result() for _ in range(2)]
        later = children.call(next_by, path, -3_600.0).result()
        again = children.call(next_by, path, -7_200.0).result()
    assert taken[0] < taken[1] < later < again == later + 1


def test_process_after_a_reboot_with_its_clock_back(tmp_path: Path) -> None:
    """After a reboot with the clock an hour back, the first nonce is above the ceiling of the boot before (I4)."""
    path = tmp_path / "nonces.db"
    with Children() as children:
        children.call(next_by, path, 0.0).result()
        with SQLiteStore(path) as store:
            ceiling = NonceProvider(store, KEY)._store.read(store.keys()[0]).ceiling
        later = children.call(next_by, path, -3_600.0, "another boot").result()
        again = children.call(next_by, path, -3_600.0, "another boot").result()
    assert ceiling < later < again


def _draw_here(path: str, count: int) -> list[int]:
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        return [provider.next() for _ in range(count)]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_pools(tmp_path: Path, method: str) -> None:
    """Workers that multiprocessing starts by spawn or forkserver draw beside their parent, all nonces unique (I1)."""
    path = tmp_path / "nonces.db"
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        waiting = [pool.apply_async(_draw_here, (str(path), 200)) for _ in range(4)]
        own = _draw_here(str(path), 200)
        drawn = own + [n for part in waiting for n in part.get(timeout=90)]
        pool.close()
        pool.join()
    assert len(set(drawn)) == len(drawn) == 1_000


def test_soak_for_three_seconds(tmp_path: Path) -> None:
    """A short soak (6 processes, one killed and started anew every 0.2 s) finds no violation (I1, I2, I3)."""
    done = soak(tmp_path, "nonces", "--seconds=3", "--least=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 violations" in done.stdout


def test_soak_fails_on_a_violation(tmp_path: Path) -> None:
    """The soak ends with status 1 when it is given a history with a repeated nonce."""
    (tmp_path / "planted.log").write_bytes(bytes(48))
    done = soak(tmp_path, "nonces", "--seconds=0.1", "--least=0")
    assert done.returncode == 1
    assert "1 violation" in done.stdout
