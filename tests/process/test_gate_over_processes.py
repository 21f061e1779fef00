"""The gate with many threads and processes at once: one in flight, in order, paced; who stops or dies delays nobody."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import StoreUnavailableError
from tests.support import databases
from tests.support.callers import GUARD, Book, Caller, Refused, until, work
from tests.support.processes import Children
from tests.support.workers import KEY

path, store, children = databases.path, databases.store, databases.children


@pytest.fixture
def gate(store: SQLiteStore) -> CallGate:
    """Return a gate without an interval."""
    return CallGate(store, KEY, min_interval=0.0)


def queued(store: SQLiteStore, gate: CallGate, pid: int) -> bool:
    """Whether a call of that process waits."""
    queue = store.read(gate.key).queue
    return any(call.session.startswith(f"{pid}-") for call in queue)


def line_up(store: SQLiteStore, gate: CallGate, *callers: Caller) -> None:
    """Have each caller want a call, the next once the one before has its place in the queue."""
    for caller in callers:
        caller.ask("Balance")
        until(partial(queued, store, gate, caller.pid), "a place in the queue")


def shows_life(store: SQLiteStore) -> bool:
    """Whether a store can still be used."""
    try:
        store.keys()
    except StoreUnavailableError:
        return False
    return True


# --- one in flight


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


# --- who dies or stops


def test_a_killed_holder(
    store: SQLiteStore, gate: CallGate, path: Path, children: Children
) -> None:
    """After SIGKILL of the holder the next is in at once, and the call is on record with method and nonce (I3)."""
    holder, next_ = Caller(children, path), Caller(children, path)
    nonce = holder.enter("AddOrder", durable=True)
    line_up(store, gate, next_)
    holder.signal(signal.SIGKILL)
    assert next_.answer() > nonce
    (record,) = store.calls()
    assert (record.method, record.nonce) == ("AddOrder", nonce)
    assert (record.outcome, record.took) == ("interrupted", None)
    assert record.session.startswith(f"{holder.pid}-")
    next_.leave()


def test_a_killed_holder_whose_child_lives_on(
    store: SQLiteStore, path: Path, tmp_path: Path, children: Children
) -> None:
    """A child that the holder had forked does not keep its dead parent alive (fault A16)."""
    parent = children.call(fork_in_call, path)
    parent.wait_for("forked")
    parent.kill()
    gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
    with gate.call("Balance"):
        pass
    assert [record.outcome for record in store.calls()] == ["ok", "interrupted"]


def fork_in_call(path: str) -> None:
    """Fork in a call, and let both processes live."""
    gate = CallGate(SQLiteStore(path), KEY)
    with gate.call("AddOrder"):
        if os.fork():
            print("forked", flush=True)  # noqa: T201 - how a child talks
        time.sleep(600)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_waiter_that_does_not_move(
    store: SQLiteStore,
    gate: CallGate,
    path: Path,
    children: Children,
    how: signal.Signals,
) -> None:
    """Nobody waits long for a waiter that was killed or stopped (I7, fault A35)."""
    waiter, next_ = Caller(children, path), Caller(children, path)
    with gate.call("Balance"):
        line_up(store, gate, waiter, next_)
        waiter.signal(how)
    assert isinstance(next_.answer(), int)
    assert queued(store, gate, waiter.pid) == (how == signal.SIGSTOP)
    next_.leave()


def test_a_waiter_that_moves_again(
    store: SQLiteStore, gate: CallGate, path: Path, children: Children
) -> None:
    """A waiter that was stopped and passed over goes before all who came after it, once it moves (I7)."""
    waiter, next_, last = (Caller(children, path) for _ in range(3))
    with gate.call("Balance"):
        line_up(store, gate, waiter, next_)
        waiter.signal(signal.SIGSTOP)
    next_.answer()
    line_up(store, gate, last)
    assert any(call.late for call in store.read(gate.key).queue)
    waiter.signal(signal.SIGCONT)
    until(lambda: not any(c.late for c in store.read(gate.key).queue), "its return")
    next_.leave()
    first = waiter.answer()
    waiter.leave()
    assert first < last.answer()
    last.leave()


def test_a_stopped_holder(
    store: SQLiteStore, gate: CallGate, path: Path, children: Children
) -> None:
    """A stopped holder keeps its call; the others are told of it in time, and the order is kept (I5, I8, A17)."""
    holder, first, second = (Caller(children, path) for _ in range(3))
    nonce = holder.enter("Ledgers")
    line_up(store, gate, first, second)
    holder.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(GateTimeoutError) as raised:
        gate.call("Balance", timeout=1.0).__enter__()
    assert time.monotonic() - begin >= 1.0
    assert f"Ledgers of process {holder.pid} (stopped) for " in str(raised.value)
    assert "2 in the queue" in str(raised.value) or "3 in" in str(raised.value)
    running = store.read(gate.key).running
    assert running is not None
    assert running.nonce == nonce
    holder.signal(signal.SIGCONT)
    holder.leave()
    earlier = first.answer()
    first.leave()
    assert earlier < second.answer()
    second.leave()
    assert {record.outcome for record in store.calls()} == {"ok"}


def test_a_waiter_in_another_process_gives_up(
    store: SQLiteStore, gate: CallGate, path: Path, children: Children
) -> None:
    """A wait that ends at its deadline leaves no place in the queue, and its error crosses processes (I8)."""
    waiter = Caller(children, path)
    with gate.call("Ledgers"):
        waiter.ask("Balance", timeout=0.3)
        said = waiter.answer()
        assert not store.read(gate.key).queue
    assert isinstance(said, Refused)
    assert said.error == "GateTimeoutError"
    assert f"Ledgers of process {os.getpid()} (" in said.text
    waiter.enter("Balance")
    waiter.leave()


# --- fork


def fork_and_use(path: str) -> list[object]:
    """Fork in a call; return what the child could do with it, and how the parent's call ended."""
    store = SQLiteStore(path)
    gate = CallGate(store, KEY, min_interval=0.0)
    reading, writing = os.pipe()
    with gate.call("AddOrder") as call:
        nonce = call.nonce
        child = os.fork()
        if not child:
            said = []
            for use in (lambda: call.nonce, lambda: call.__exit__(None, None, None)):
                try:
                    use()
                except Exception as error:  # noqa: BLE001 - its name is the result
                    said.append(type(error).__name__)
            try:
                gate.call("Balance", timeout=0.1).__enter__()
            except Exception as error:  # noqa: BLE001 - as above
                said.append(type(error).__name__)
            os.write(writing, " ".join(said).encode())
            os._exit(0)
        os.waitpid(child, 0)
        text = os.read(reading, 1_000).decode()
        running = store.read(gate.key).running
    assert running is not None
    with gate.call("Balance"):
        pass
    ended = [record.outcome for record in store.calls()]
    return [text, running.nonce == nonce, *ended]


def test_a_fork_in_a_call(path: Path, children: Children) -> None:
    """A forked child has no part in its parent's call, waits for it like others, and cannot end it (fault A15)."""
    said = children.call(fork_and_use, path).result()
    refused = "ForkedCallError ForkedCallError GateTimeoutError"
    assert said == [refused, True, "ok", "ok"]


# --- calls that end by themselves


def test_a_dropped_call(store: SQLiteStore, gate: CallGate) -> None:
    """A call whose object is dropped in flight ends without anybody asking (fault A35)."""
    for _ in range(50):
        gate.call("Balance").__enter__()
        until(lambda: store.read(gate.key).running is None, "the call to end")
    assert {record.outcome for record in store.calls()} == {"unknown"}


def test_a_program_that_ends_in_a_call(
    store: SQLiteStore, path: Path, children: Children
) -> None:
    """A program that ends without leaving its call does end, and the call is on record as interrupted."""
    child = children.script(
        "import sys\n"
        "from persistent_nonce import CallGate, SQLiteStore\n"
        "call = CallGate(SQLiteStore(sys.argv[1]), sys.argv[2]).call('AddOrder')\n"
        "call.__enter__()\n",
        path,
        KEY,
    )
    assert child.end() == 0
    with CallGate(store, KEY, timeout=GUARD).call("Balance"):
        pass
    assert [record.outcome for record in store.calls()] == ["ok", "interrupted"]


def test_a_thread_that_dies(store: SQLiteStore, gate: CallGate) -> None:
    """A thread that ends in its call by an error, or waiting for one, leaves nothing (fault A19)."""
    died = []

    def caller() -> None:
        try:
            with gate.call("Balance", timeout=0.05):
                raise OSError("the connection")
        except OSError as error:
            died.append(str(error))

    for _ in range(50):
        thread = threading.Thread(target=caller)
        thread.start()
        thread.join()
    with gate.call("Balance"):
        thread = threading.Thread(target=caller)  # this one times out
        thread.start()
        thread.join()
    assert died[:50] == ["the connection"] * 50
    assert len(died) == 51
    state = store.read(gate.key)
    assert (state.queue, state.running) == ((), None)
    assert not store.session().live


def test_a_store_closed_in_a_call(path: Path, children: Children) -> None:
    """Who closes a store lets nobody into its calls: they go on and are recorded, new ones are refused (I5)."""
    store, other = SQLiteStore(path), Caller(children, path)
    gate = CallGate(store, KEY, min_interval=0.0)
    begun = []

    def wait() -> None:
        with gate.call("Ledgers") as call:
            begun.append(call.nonce)

    waiting = threading.Thread(target=wait)
    with gate.call("AddOrder") as call:
        waiting.start()
        until(lambda: queued(store, gate, os.getpid()), "a thread to wait")
        store.close()
        store.close()
        refused = other.enter_or_not("Balance", timeout=0.5)
        assert isinstance(refused, Refused), "two calls are in flight"
        assert refused.error == GateTimeoutError.__name__
        with pytest.raises(StoreUnavailableError, match="is closed"):
            gate.call("Balance").__enter__()
    waiting.join(GUARD)
    assert other.enter("Balance") > begun[0] > call.nonce
    other.leave()
    until(lambda: not shows_life(store), "the store to be closed")
    with SQLiteStore(path) as again:
        ended = [(record.method, record.outcome) for record in again.calls()]
    assert ended == [("Balance", "ok"), ("Ledgers", "ok"), ("AddOrder", "ok")]


def test_a_process_that_ends_in_a_call(path: Path, children: Children) -> None:
    """A process on its way out, whose thread is still in its call, lets nobody in before it is gone (I5; A19)."""
    source = (
        "import atexit, sys, threading\n"
        "from persistent_nonce import CallGate, SQLiteStore\n"
        "def last():\n"  # an exit's hook of an import before ours comes after it
        "    print('closed', flush=True)\n"
        "    sys.stdin.readline()\n"
        "atexit.unregister(sys.modules['persistent_nonce.stores.sqlite']._close_all)\n"
        "atexit.register(last)\n"
        "atexit.register(sys.modules['persistent_nonce.stores.sqlite']._close_all)\n"
        "gate = CallGate(SQLiteStore(sys.argv[1]), sys.argv[2], min_interval=0.0)\n"
        "begun = threading.Event()\n"
        "def call():\n"
        "    with gate.call('AddOrder'):\n"
        "        begun.set()\n"
        "        threading.Event().wait()\n"
        "threading.Thread(target=call, daemon=True).start()\n"
        "begun.wait()\n"
    )
    other, ending = Caller(children, path), children.script(source, path, KEY)
    ending.wait_for("closed")
    refused = other.enter_or_not("Balance", timeout=0.5)
    assert isinstance(refused, Refused), "two calls are in flight"
    assert refused.error == GateTimeoutError.__name__
    ending.tell()
    assert ending.end() == 0
    assert other.enter("Balance") > 0
    other.leave()


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
