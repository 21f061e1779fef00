"""Callers killed at random: never two in flight, every killed call on record, and the others go on (I3, I5)."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.state import KeyState
from persistent_nonce.stores.sessions import pid_of, process_state
from tests.support.callers import GUARD, Book, until, work
from tests.support.processes import Child, Children
from tests.support.workers import KEY


def begun(book: Book) -> int:
    """Return how many calls have begun."""
    return sum(line.startswith("enter") for line in book.lines())


def more_than(book: Book, count: int) -> bool:
    """Whether more than `count` calls have begun."""
    return begun(book) > count


def in_call(book: Book, worker: Child) -> bool:
    """Whether a process is in a call, by its own book."""
    events = [line.split()[:2] for line in book.lines()]
    mine = [event for event, pid in events if pid == str(worker.pid)]
    return mine[-1:] == ["enter"]


def is_stopped(worker: Child) -> bool:
    """Whether a process was stopped."""
    return process_state(worker.pid) == "stopped"


def stopped_in_its_call(book: Book, workers: list[Child]) -> Child:
    """Stop a process in the middle of its call, and return it."""
    stopped: list[Child] = []

    def stop() -> bool:
        for worker in workers:
            if in_call(book, worker):
                worker.kill(signal.SIGSTOP)
                until(partial(is_stopped, worker), "its stop")
                if in_call(book, worker):
                    stopped.append(worker)
                    return True
                worker.kill(signal.SIGCONT)  # it was quicker
        return False

    until(stop, "a process to be stopped in its call")
    return stopped[0]


def named(state: KeyState) -> set[int]:
    """Return the processes that the state of a key speaks of."""
    sessions = {call.session for call in state.queue}
    if state.running is not None:
        sessions.add(state.running.session)
    return {pid_of(session) for session in sessions}


@pytest.mark.parametrize("durable", [False, True])
def test_kills_at_random(tmp_path: Path, durable: bool) -> None:
    """Whoever is killed, wherever it stands: the others go on, and each call it had begun is on record (A31)."""
    path, book = tmp_path / "nonces.db", Book(tmp_path / "book")
    moment, killed = random.Random(7), set[int]()
    settings: Any = {"min_interval": 0.0, "unit": "ns", "durable": durable}

    def another() -> Child:
        return children.call(work, path, book.path, 1_000_000, 0.002, settings)

    with SQLiteStore(path, timeout=60) as store, Children() as children:
        workers = [another() for _ in range(4)]
        for number in range(12):
            before = begun(book)
            until(partial(more_than, book, before + 5), "calls to go on")
            if number % 3:
                time.sleep(moment.uniform(0, 0.02))  # any moment of a call
                victim = moment.choice(workers)
            else:
                victim = stopped_in_its_call(book, workers)
            victim.kill()
            killed.add(victim.pid)
            workers[workers.index(victim)] = another()
        for worker in workers:
            worker.kill()
            killed.add(worker.pid)
        gate = CallGate(store, KEY, timeout=GUARD)
        with gate.call("Balance"):
            pass
        assert not named(store.read(gate.key)) & killed
        records = {record.nonce: record for record in store.calls(limit=100_000)}
    visits = book.visits()
    assert len({visit.pid for visit in visits}) >= 5
    assert sum(not visit.left for visit in visits) >= 4  # some died in their call
    known = Counter(records[v.nonce].outcome for v in visits if v.nonce in records)
    assert set(known) <= {"ok", "interrupted"}
    for visit in visits:
        if not visit.left:
            assert records[visit.nonce].outcome == "interrupted"
            assert records[visit.nonce].method == "Balance"
    for record in records.values():
        if record.outcome == "interrupted":
            assert pid_of(record.session) in killed


def test_all_killed_at_once(tmp_path: Path) -> None:
    """With everybody dead, holder and queue, the next caller is in at once and nobody has to clean up (I3)."""
    path, book = tmp_path / "nonces.db", Book(tmp_path / "book")
    for _ in range(3):
        with Children() as children:
            workers = [
                children.call(work, path, book.path, 1_000, 0.005, {}) for _ in range(3)
            ]
            before = begun(book)
            until(
                partial(more_than, book, before + 1), "calls to begin"
            )  # a default binds the loop
            for worker in workers:
                worker.kill()
        assert all(process_state(worker.pid) == "gone" for worker in workers)
        with (
            SQLiteStore(path) as store,
            CallGate(store, KEY, timeout=GUARD).call("Balance") as call,
        ):
            assert call.nonce > max(visit.nonce for visit in book.visits())
