"""Callers in processes that are killed or stopped, in their call or while they wait, delay nobody for long."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore
from tests.support import databases
from tests.support.callers import GUARD, Caller, Refused, line_up, queued, until
from tests.support.processes import Children
from tests.support.workers import KEY

path, store = databases.path, databases.store
gate, children = databases.gate, databases.children


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
