"""Who waits for whom at the gate: callers of one process, and processes in the order of the queue."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

import pytest

from persistent_nonce import CallGate
from persistent_nonce.errors import NestedCallError
from tests.support import stepped
from tests.support.simulated import Hands
from tests.support.stepped import KEY, Process, Spied, Wanting, outcomes, state_of

#: Seconds; a guard for what is done by another thread.
GUARD: Final = 30.0

clock, store = stepped.clock, stepped.store


# --- one caller, one call


def test_a_nested_call(store: Spied) -> None:
    """A call inside another of the same caller and key is refused at once, and the outer one does not notice (I8)."""
    process = Process(store)
    again = CallGate(process.store, KEY)  # another object is no way round
    with process.gate.call("Balance") as outer:
        for _ in range(3):
            with pytest.raises(NestedCallError, match="inside another"):
                again.call("Ledgers").__enter__()
        running = state_of(store).running
        assert running is not None
        assert running.nonce == outer.nonce
        with CallGate(process.store, "another key").call("Balance"):
            pass
    with again.call("Ledgers"):
        pass
    assert outcomes(store) == ["ok", "ok", "ok"]
    assert process.clean


def test_another_thread_waits(store: Spied, clock: Hands) -> None:
    """A thread that another has started during its call is a caller of its own: it stands in the queue."""
    process = Process(store, min_interval=0.0)
    queued: list[Wanting] = []
    with process.gate.call("Balance"):
        thread = threading.Thread(target=lambda: queued.append(process.wants()))
        thread.start()
        thread.join(GUARD)
        assert not queued[0].inside
    assert queued[0].look()
    queued[0].leave()
    assert outcomes(store) == ["ok", "ok"]
    assert process.clean


def test_a_child_task_waits(store: Spied) -> None:
    """A task that another has started during its call inherits its context, but not its call."""
    process = Process(store, min_interval=0.0)

    async def child() -> Wanting:
        return process.wants()

    async def parent() -> Wanting:
        async with process.gate.call("Balance"):
            waiting = await asyncio.create_task(child())
            assert not waiting.inside
        return waiting

    waiting = asyncio.run(parent())
    assert waiting.look()
    waiting.leave()
    assert process.clean


# --- the order


def test_first_come_first_served(store: Spied) -> None:
    """Calls of several processes start in the order in which they came (I5, I7)."""
    processes = [Process(store, min_interval=0.0) for _ in range(5)]
    waiting = [process.wants() for process in processes]
    nonces = []
    while waiting:
        first, *waiting = waiting
        assert first.inside or first.look()
        assert not any(later.look() for later in waiting)
        nonces.append(first.call.nonce)
        first.leave()
    assert nonces == sorted(nonces)
    assert len(nonces) == 5


def test_higher_priorities_go_first(store: Spied) -> None:
    """A higher priority overtakes those who wait, not the call in flight; equals stay in order."""
    holder = Process(store, min_interval=0.0).wants()
    waiting = {
        name: Process(store).wants(name, priority=priority)
        for name, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]
    }
    holder.leave()
    started = []
    while waiting:
        (inside,) = [name for name, call in waiting.items() if call.look()]
        started.append(inside)
        waiting.pop(inside).leave()
    assert "".join(started) == "bdaec"


def test_a_dead_waiter_is_skipped(store: Spied, clock: Hands) -> None:
    """Who waits behind a process that died finds out and goes on, well before it would be passed over (I7)."""
    holder, dead, next_ = (Process(store, min_interval=0.0) for _ in range(3))
    call, _, waiting = holder.wants(), dead.wants(), next_.wants()
    dead.session.end()
    call.leave()
    clock.forward(0.2)  # when the sessions ahead are asked again
    assert waiting.look()
    assert state_of(store).queue == ()


def test_a_dead_holder(
    store: Spied, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """A call whose process died ends as interrupted as soon as another wants one, and is on record (I3)."""
    holder = Process(store, min_interval=0.0)
    lost = holder.wants("AddOrder")
    holder.session.end()
    next_ = Process(store).wants()
    assert not next_.inside
    assert next_.look()
    record = store.calls()[-1]
    assert (record.method, record.nonce) == ("AddOrder", lost.call.nonce)
    assert record.outcome == "interrupted"
    assert f"session {holder.session.name} is dead" in caplog.text


def test_a_silent_waiter_is_passed_over(store: Spied, clock: Hands) -> None:
    """Who lets its turn pass is passed over after a second, with all of its session, and keeps its ticket (I7)."""
    holder, silent, next_, last = (Process(store, min_interval=0.0) for _ in range(4))
    call, one, two = holder.wants(), silent.wants(), next_.wants()
    thread = threading.Thread(target=lambda: again.append(silent.wants()))
    again: list[Wanting] = []
    thread.start()
    thread.join(GUARD)
    three = last.wants()
    call.leave()
    clock.forward(0.9)
    assert not two.look()
    clock.forward(0.1)
    assert two.look()
    assert not one.look()  # it moves again, and stands where it stood
    two.leave()
    assert not three.look()
    assert one.look()
    one.leave()
    assert three.look(), "the rest of the session is still silent"
    three.leave()
    assert again[0].look()


def test_a_call_of_the_same_process_begun_meanwhile(store: Spied) -> None:
    """A thread on its way into a transaction takes no call for a left-over that another has begun since (I5)."""
    process = Process(store, min_interval=0.0)
    begun: list[Wanting] = []

    def meanwhile() -> None:
        thread = threading.Thread(target=lambda: begun.append(process.wants("Ledgers")))
        thread.start()
        thread.join(GUARD)

    process.store.before_update.append(meanwhile)
    waiting = process.wants("Balance")
    assert begun[0].inside
    assert not waiting.inside
    running = state_of(store).running
    assert running is not None
    assert running.method == "Ledgers"
    begun[0].leave()
    assert waiting.look()
    assert outcomes(store) == ["ok"]
