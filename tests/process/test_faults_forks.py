"""Fork in a call, while waiting for one, beside threads, from a handler, by multiprocessing; children that live on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.provider import NonceProvider
from tests.support import databases
from tests.support.callers import GUARD, until
from tests.support.faulting_forks import (
    fork_in_calls,
    fork_while_waiting,
    pool_of_forks,
    stay_with_a_child,
    wait_and_fork_in_a_handler,
)
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.processes import Children
from tests.support.workers import KEY

pytestmark = pytest.mark.timeout(LONG)

path = databases.path
children = databases.children


@pytest.mark.storm  # coverage's own lock is copied while a thread has it
def test_forks_in_a_call_beside_threads(path: Path, children: Children) -> None:
    """A child forked in a call cannot use or end it, waits for it, and draws what nobody has (I1, I5; A15)."""
    rounds = times(12, 200)
    found = children.call(fork_in_calls, path, rounds).result()
    refused = ["ForkedCallError"] * 3 + ["GateTimeoutError"]
    assert [said[:4] for said in found["said"]] == [refused] * rounds
    assert found["kept"] == rounds
    drawn = found["drawn"] + [int(said[4]) for said in found["said"]]
    assert len(set(drawn)) == len(drawn) > rounds
    with SQLiteStore(path) as store:
        records = store.calls(limit=1_000)
        assert [record.outcome for record in records] == ["ok"] * (rounds + 1)
        assert store.read(store.keys()[0]).queue == ()


def test_forks_while_a_thread_waits(path: Path, children: Children) -> None:
    """A thread that waits for its turn keeps its place when another one forks, and the child has none (I5, I7; A15)."""
    rounds = times(12, 200)
    found = children.call(fork_while_waiting, path, rounds).result()
    # The child's own wait ended at its deadline, and only the parent's thread is in the queue then.
    assert found["said"] == ["GateTimeoutError", "1"] * rounds
    assert len(set(found["served"])) == rounds
    assert found["left"] == 0


@pytest.mark.parametrize("how", ["goes on", "raises"])
def test_a_fork_by_a_signal_handler_while_waiting(
    path: Path, children: Children, how: str
) -> None:
    """A child that was copied in the middle of a wait has no part in the call that its parent then begins (I5; A15)."""
    with SQLiteStore(path, timeout=60) as store:
        gate = CallGate(store, KEY, min_interval=0.0)
        with gate.call("Ledgers"):
            child = children.call(wait_and_fork_in_a_handler, path, how)
            child.wait_for("ready")
            until(lambda: len(store.read(gate.key).queue) == 1, "a place in the queue")
            os.kill(child.pid, signal.SIGUSR1)
            child.wait_for("forked")
        said, kept, outcome = child.result()
    assert said == ("SystemExit" if how == "raises" else "ForkedCallError")
    assert kept
    assert outcome == "ok"


def test_a_pool_of_forked_workers(path: Path, children: Children) -> None:
    """Workers that multiprocessing forks in their parent's call draw by its store, and call after it (I1, I5; A15)."""
    workers, tasks = 4, times(8, 50)
    found = children.call(pool_of_forks, path, workers, tasks).result()
    drawn = found["own"] + [nonce for part in found["theirs"] for nonce in part]
    assert len(set(drawn)) == len(drawn) == 100 + 20 * tasks
    assert all(a < b for part in found["theirs"] for a, b in pairwise(part))
    assert (found["early"], found["left"]) == (0, 0)
    with SQLiteStore(path) as store:
        methods = [record.method for record in reversed(store.calls())]
    assert methods == ["AddOrder", *["Balance"] * tasks]


def _call_and_draw(path: str, count: int) -> list[int]:
    with SQLiteStore(path, timeout=60) as store:
        provider = NonceProvider(store, "drawn", unit="ns")
        gate = CallGate(store, KEY, min_interval=0.0, unit="ns", timeout=GUARD)
        drawn = [provider.next() for _ in range(count)]
        with gate.call("Balance"):
            return drawn


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_started_in_a_call(path: Path, method: str) -> None:
    """Workers that spawn or forkserver starts in a call of their parent wait for its end, and draw beside it (A15)."""
    tasks = times(4, 40)
    with SQLiteStore(path, timeout=60) as store:
        gate = CallGate(store, KEY, min_interval=0.0, unit="ns")
        with multiprocessing.get_context(method).Pool(2) as pool:
            with gate.call("AddOrder"):
                waiting = [
                    pool.apply_async(_call_and_draw, (str(path), 50))
                    for _ in range(tasks)
                ]
                until(lambda: bool(store.read(gate.key).queue), "a worker to wait")
                assert not any(task.ready() for task in waiting)
            drawn = [nonce for task in waiting for nonce in task.get(GUARD)]
            pool.close()
            pool.join()
        assert len(set(drawn)) == len(drawn) == 50 * tasks
        assert {record.outcome for record in store.calls()} == {"ok"}
        assert store.read(gate.key).queue == ()


def test_killed_holders_whose_children_live_on(path: Path, children: Children) -> None:
    """However many children a killed holder leaves behind, the gate is free at once (I3; A16)."""
    longest = 0.0
    with SQLiteStore(path, timeout=60) as store:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        with gate.call("Balance"):
            pass
        rounds = times(4, 20)
        for _ in range(rounds):
            holder = children.call(stay_with_a_child, path)
            holder.wait_for("forked")
            holder.kill()
            begin = time.monotonic()
            with gate.call("Balance"):
                longest = max(longest, time.monotonic() - begin)
        ended = [record.outcome for record in store.calls()]
    figure("gate free after, seconds at the most", round(longest, 4))
    assert ended == ["ok", "interrupted"] * rounds + ["ok"]
    assert longest < GUARD
