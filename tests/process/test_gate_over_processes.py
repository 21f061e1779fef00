"""The gate with many threads and processes at once: one in flight, in order, paced, and on record."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.clock import SECOND
from tests.support import databases
from tests.support.callers import GUARD, Book, Caller, line_up, work
from tests.support.processes import Children
from tests.support.workers import KEY

path, store = databases.path, databases.store
gate, children = databases.gate, databases.children


def test_threads(store: SQLiteStore, tmp_path: Path) -> None:
    """10 threads with 50 calls each: never two in flight, nonces in the order of the calls, nothing left (I5)."""
    book = Book(tmp_path / "book")
    gate = CallGate(store, KEY, min_interval=0.0, unit="ns")

    def caller() -> None:
        for _ in range(50):
            with gate.call("Balance") as call, book.visit(call.nonce, 0):
                pass

    with ThreadPoolExecutor(10) as pool:
        for end in [pool.submit(caller) for _ in range(10)]:
            end.result()
    visits = book.visits()
    records = store.calls(gate.key, 1_000)
    assert len(visits) == 500
    assert {record.outcome for record in records} == {"ok"}
    assert [record.nonce for record in reversed(records)] == [v.nonce for v in visits]
    assert (store.read(gate.key).queue, store.read(gate.key).running) == ((), None)
    assert not store.session().live
    assert not store.session().callers


def test_processes(
    store: SQLiteStore, path: Path, tmp_path: Path, children: Children
) -> None:
    """8 processes with 50 calls each: never two in flight, nonces in the order of the calls (I5)."""
    book = Book(tmp_path / "book")
    settings = {"min_interval": 0.002, "unit": "ns", "begin": time.time_ns()}
    workers = [
        children.call(work, path, book.path, 50, 0.001, settings) for _ in range(8)
    ]
    for worker in workers:
        worker.result()
    visits = book.visits()
    assert len(visits) == 400
    assert len({visit.pid for visit in visits}) == 8
    records = list(reversed(store.calls(limit=1_000)))
    assert [record.nonce for record in records] == [visit.nonce for visit in visits]
    assert {record.outcome for record in records} == {"ok"}
    for one, next_ in itertools.pairwise(records):
        assert next_.at - one.at >= 2_000_000
        assert one.took is not None
        assert next_.at >= one.at + one.took


def test_the_default_interval(
    store: SQLiteStore, path: Path, tmp_path: Path, children: Children
) -> None:
    """Starts of calls are 200 ms apart over 4 processes, by the records and by the callers' own watch (I6)."""
    book = Book(tmp_path / "book")
    begin = time.monotonic_ns()
    settings = {"begin": time.time_ns() - begin}
    workers = [children.call(work, path, book.path, 3, 0.0, settings) for _ in range(4)]
    for worker in workers:
        worker.result()
    records = list(reversed(store.calls()))
    assert len(records) == 12
    for one, next_ in itertools.pairwise(records):
        assert next_.at - one.at >= SECOND // 5
    # A caller may be slow to look at its watch, so each is compared with the beginning of all.
    for number, visit in enumerate(book.visits()):
        assert visit.entered - begin >= number * SECOND // 5


def test_keys_do_not_wait_for_each_other(store: SQLiteStore) -> None:
    """Calls of two keys are in flight at the same time: each waits in its body for the other."""
    both = threading.Barrier(2, timeout=GUARD)
    met = []

    def caller(key: str) -> None:
        gate = CallGate(store, key, min_interval=0.0)
        for number in range(20):
            with gate.call("Balance"):
                both.wait()
                met.append(number)

    threads = [threading.Thread(target=caller, args=(key,)) for key in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(met) == sorted([*range(20), *range(20)])


def test_first_come_first_served(
    store: SQLiteStore, gate: CallGate, path: Path, children: Children
) -> None:
    """Processes get their turn in the order in which they came (I7)."""
    callers = [Caller(children, path) for _ in range(4)]
    callers[0].enter("Balance")
    line_up(store, gate, *callers[1:])
    nonces = []
    for holder, next_ in itertools.pairwise(callers):
        holder.leave()
        nonces.append(next_.answer())
    assert all(isinstance(nonce, int) for nonce in nonces)
    assert nonces == sorted(nonces)


def test_records_are_trimmed(store: SQLiteStore, gate: CallGate) -> None:
    """The newest 1000 settled calls are kept, with few more, and every call that is still in doubt."""
    with pytest.raises(OSError, match="lost"), gate.call("AddOrder", durable=True):
        raise OSError("lost")
    for _ in range(1_105):
        with gate.call("Balance"):
            pass
    records = store.calls(gate.key, 2_000)
    assert 1_001 <= len(records) < 1_050
    assert [r.method for r in records if r.outcome == "unknown"] == ["AddOrder"]
