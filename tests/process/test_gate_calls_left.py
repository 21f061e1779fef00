"""Calls that nobody ends as usual: forked in, dropped, or left by a thread, a store or a process that ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore
from persistent_nonce.errors import StoreUnavailableError
from tests.support import databases
from tests.support.callers import GUARD, Caller, Refused, queued, until
from tests.support.processes import Children
from tests.support.workers import KEY

path, store = databases.path, databases.store
gate, children = databases.gate, databases.children


def shows_life(store: SQLiteStore) -> bool:
    """Whether a store can still be used."""
    try:
        store.keys()
    except StoreUnavailableError:
        return False
    return True


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
