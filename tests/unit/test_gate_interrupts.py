"""Calls that are interrupted at each step, dropped or left over, of which nothing stays behind."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest

from persistent_nonce import CallGate, calls, steps
from persistent_nonce.calls import Call
from persistent_nonce.errors import NestedCallError, NonceError
from persistent_nonce.state import Changed
from persistent_nonce.steps import Steps
from tests.support import stepped
from tests.support.simulated import Hands
from tests.support.stepped import Process, Spied, outcomes, state_of

clock, store, gate = stepped.clock, stepped.store, stepped.gate


class Interrupt(KeyboardInterrupt):
    """The interrupt of these tests."""


def interrupt(call: Call, blow: int) -> None:
    """Enter `call` and interrupt it at its step number `blow // 3`: before it, after it, or by dropping it there."""
    call._begin()
    steps: Any = call._enter()
    number, how = divmod(blow, 3)
    resume, value = steps.send, None
    try:
        for at in itertools.count():
            step = resume(value)
            resume, value = steps.send, None
            if at == number:
                if how and callable(step):
                    step()  # made, but its result is lost
                if how == 2:
                    steps.close()
                    return
                resume, value = steps.throw, Interrupt()
            elif callable(step):
                value = step()
    except (Interrupt, StopIteration, NonceError):
        pass
    if call._id and call._running is not None:
        call.__exit__(None, None, None)


@pytest.mark.parametrize("blow", range(12))
def test_an_interrupt_of_a_nested_call(store: Spied, blow: int) -> None:
    """However far a nested call came before it was interrupted, the outer one is still known as its caller's."""
    process = Process(store)
    with process.gate.call("Balance"):
        interrupt(process.gate.call("Ledgers"), blow)
        with pytest.raises(NestedCallError):
            process.gate.call("Ledgers").__enter__()


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("blow", range(18))
def test_an_interrupt_on_the_way_in(store: Spied, blow: int, busy: bool) -> None:
    """Wherever the way in is interrupted or dropped, nothing is left in queue, gate or process (trap 6, A18)."""
    holder, process = Process(store, min_interval=0.0), Process(store)
    held = holder.wants() if busy else None
    interrupt(process.gate.call("Balance"), blow)
    store.update("0" * 16, lambda state, now: Changed(state))  # does what was left over
    assert state_of(store).queue == ()
    assert process.clean
    if held is not None:
        held.leave()
    assert state_of(store).running is None
    assert holder.wants().inside


def test_a_call_dropped_while_its_thread_is_on_its_way(store: Spied) -> None:
    """A transaction that is made after its call was dropped stands in no queue (a loop that closed too early)."""
    process = Process(store)
    call = process.gate.call("Balance")
    call._begin()
    steps = call._enter()
    session: Any = steps.send(None)
    join: Any = steps.send(session())
    steps.close()
    store.update("0" * 16, lambda state, now: Changed(state))  # does what was left over
    join()
    assert (state_of(store).queue, state_of(store).running) == ((), None)


def test_an_interrupt_that_the_steps_never_saw(
    store: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that strikes when the steps are done, or not begun, takes the call back, or ends it (A18)."""
    process = Process(store, min_interval=0.0)
    real = steps.run

    def after(procedure: Steps[Any], **_: Any) -> None:
        real(procedure)
        raise Interrupt

    def before(procedure: Steps[Any], **_: Any) -> None:
        raise Interrupt

    for strike in (before, after):
        with monkeypatch.context() as striking:
            striking.setattr(calls, "run", strike)
            left = process.gate.call("Balance")  # kept alive: no finalizer helps
            with pytest.raises(Interrupt):
                left.__enter__()
        store.update("0" * 16, lambda state, now: Changed(state))
        assert state_of(store).running is None
        assert process.clean
    for strike in (before, after):
        call = process.gate.call("Ledgers").__enter__()
        with monkeypatch.context() as striking:
            striking.setattr(calls, "run", strike)
            with pytest.raises(Interrupt):
                call.__exit__(None, None, None)
        store.update("0" * 16, lambda state, now: Changed(state))
        assert state_of(store).running is None
        assert process.clean
    assert outcomes(store) == ["not_sent", "ok", "ok"]


@pytest.mark.parametrize("made", [False, True])
def test_an_interrupt_on_the_way_out(store: Spied, made: bool) -> None:
    """An interrupted exit is carried out later, with its outcome, and twice does no harm."""
    process = Process(store, min_interval=0.0)
    call = process.gate.call("Balance").__enter__()
    steps: Any = call._exit(None)
    step = steps.send(None)
    if made:
        step()
    with pytest.raises(Interrupt):
        steps.throw(Interrupt())
    with process.gate.call("Ledgers"):
        pass
    assert outcomes(store) == ["ok", "ok"]
    assert process.clean


def test_a_call_object_that_is_dropped(store: Spied) -> None:
    """A call that was never exited ends when its object goes, as unknown; nobody waits for its hold time."""
    process = Process(store, min_interval=0.0)
    process.gate.call("AddOrder").__enter__()  # dropped at once
    gc.collect()
    assert process.clean
    with process.gate.call("Balance"):
        pass
    assert outcomes(store) == ["unknown", "ok"]


def test_a_generator_that_is_closed_in_a_call(gate: CallGate, store: Spied) -> None:
    """A generator that is not used up ends its call when it is closed."""

    def pages() -> Any:
        with gate.call("Ledgers"):
            yield 1
            yield 2

    generator = pages()
    assert next(generator) == 1
    generator.close()
    assert state_of(store).running is None
    assert outcomes(store) == ["unknown"]


def test_a_left_over_of_the_own_session(store: Spied, clock: Hands) -> None:
    """What an interrupt left under this process's name goes at its next transaction."""
    process = Process(store, min_interval=0.0)
    left = process.wants()
    process.session.live.clear()
    process.session.callers.clear()
    with process.gate.call("Balance"):
        assert outcomes(store) == ["unknown"]
    del left
    assert state_of(store).queue == ()
