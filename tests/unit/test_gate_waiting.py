"""How long calls wait, for what and until when, and what is told of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from persistent_nonce import CallGate, Rate, SQLiteStore, recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import GateTimeoutError
from persistent_nonce.messages import waits_for
from persistent_nonce.state import Outcome
from persistent_nonce.stores.sessions import of_one_process
from tests.support import stepped
from tests.support.simulated import Hands
from tests.support.stepped import (
    KEY,
    Process,
    Spied,
    Wanting,
    change,
    outcomes,
    state_of,
)

clock, store, gate = stepped.clock, stepped.store, stepped.gate


# --- waiting


def test_the_interval(gate: CallGate) -> None:
    """Calls start 200 ms apart by default, and a call knows how long it waited (I6)."""
    for number in range(10):
        with gate.call("Balance") as call:
            assert call.waited == pytest.approx(0.2 if number else 0.0, abs=1e-6)


def test_the_counter(store: Spied, clock: Hands) -> None:
    """After the burst, calls start as the counter drains; a call of cost 0 does not wait for it (I6)."""
    gate = CallGate(store, KEY, rate=Rate(2.0, 3), min_interval=0.0)
    begin = clock.mono()
    starts = []
    for cost in (1, 1, 1, 1, 0, 2):
        with gate.call("Balance", cost=cost):
            starts.append((clock.mono() - begin) / SECOND)
    assert starts == pytest.approx([0, 0, 0, 2, 2, 6], abs=1e-6)


def test_waiting_reads_and_does_not_write(store: Spied, clock: Hands) -> None:
    """Who waits looks without a lock, the nearer the more often, and makes no transaction before it can help (I7)."""
    call = Process(store, min_interval=0.0).wants()
    first, second = Process(store), Process(store)
    looks = []
    for process in (first, second):
        waiting = process.wants()
        begin = clock.mono()
        while clock.mono() < begin + SECOND:
            step = waiting.steps.send(None)
            while callable(step):
                step = waiting.steps.send(step())
            assert isinstance(step, float)
            clock.forward(step)
        assert process.store.updates == 1
        looks.append(process.store.reads)
    assert 100 <= looks[0] <= 1_001  # one each 1 to 10 ms, the later the less often
    assert 10 <= looks[1] <= 201  # at most one each 5 ms, at least one each 100 ms
    call.leave()


@pytest.mark.parametrize("timeout", [0.0, 0.05, 3.0])
def test_a_wait_ends_at_its_deadline(
    store: Spied, clock: Hands, timeout: float
) -> None:
    """The error says in whose hands the gate is: pid, state of the process, method, age (I8)."""
    holder, process = Process(store), Process(store)
    call = holder.wants("Ledgers")
    clock.forward(7)
    begin = clock.mono()
    with (
        pytest.raises(GateTimeoutError) as raised,
        process.gate.call("Balance", timeout=timeout),
    ):
        pass
    waited = (clock.mono() - begin) / SECOND
    assert waited == pytest.approx(timeout, abs=1e-6)
    text = str(raised.value)
    assert f"Balance of key {process.gate.key} was not sent" in text
    assert f"no turn in {timeout:g} s" in text
    age = 7 + timeout
    assert f"Ledgers of process {holder.pid} (gone) for {age:.1f} s" in text
    assert raised.value.hint
    assert isinstance(raised.value, TimeoutError)
    assert state_of(store).queue == ()
    assert process.clean
    call.leave()
    assert outcomes(store) == ["ok"]


def test_a_timeout_of_zero_is_enough_for_a_free_gate(gate: CallGate) -> None:
    """A call that need not wait starts, however little time it was given."""
    with gate.call("Balance", timeout=0):
        pass


def test_a_deadline_before_the_counter_has_drained(store: Spied, clock: Hands) -> None:
    """With nothing in flight, the error names who is next, and what that one waits for."""
    gate = CallGate(store, KEY, rate=Rate(100.0, 1), timeout=2)
    with gate.call("Balance"):
        pass
    with pytest.raises(GateTimeoutError, match=r"next is Balance .*the call counter"):
        gate.call("Balance").__enter__()
    assert state_of(store).queue == ()


def test_a_deadline_before_the_interval_is_over(store: Spied, clock: Hands) -> None:
    """An interval that was set far too long, in ms say, is named with the command that changes it: no tier would."""
    gate = CallGate(store, KEY, min_interval=200, timeout=60)
    with gate.call("Balance"):
        pass
    with pytest.raises(GateTimeoutError) as raised:
        gate.call("Balance").__enter__()
    assert "start 200 s apart" in raised.value.hint
    assert f"set-tier {gate.key} --min-interval SECONDS" in raised.value.hint


def test_a_deadline_behind_a_call_of_ones_own(tmp_path: Path) -> None:
    """Who is kept waiting by its own process, through another object of the store, is not told to end it."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as ours, SQLiteStore(path) as theirs:
        hint = ""
        with CallGate(ours, "k").call("AddOrder"):
            try:
                CallGate(theirs, "k", timeout=0).call("Balance").__enter__()
            except GateTimeoutError as error:
                hint = error.hint
        assert "this very process" in hint
        assert "end that process" not in hint


def test_sessions_of_one_process() -> None:
    """Pids alone do not tell: in each container the first process is 1, and where /proc is hidden there is no more."""
    ours = "1-77-4026531836-a5d52240"
    assert of_one_process(ours, "1-77-4026531836-12ab2241")
    for other in ("1-78-4026531836-a5d52240", "1-77-4026531999-a5d52240"):
        assert not of_one_process(ours, other)
    for hidden in ("1-0-4026531836-a5d52240", "1-77-0-a5d52240", "1-0-0-a5d52240"):
        assert not of_one_process(hidden, hidden)


def test_nobody_stands_in_the_way_for_ever(store: Spied, clock: Hands) -> None:
    """A clock set back makes no wait longer (I8)."""
    gate = CallGate(store, KEY, min_interval=0.0, timeout=20)
    change(store, lambda s, now: recovery.lockout(s, now, 10 * SECOND, "busy"))
    waiting = Process(store).wants(timeout=20)
    wall = clock.wall
    clock.wall = lambda: wall() - 3_600 * SECOND  # type: ignore[method-assign]  # a clock set back
    with gate.call("Balance", priority=1) as call:
        assert call.waited <= 10.0 + 1e-6
    assert waiting.look()


# --- overtaken


def overtaken(store: Spied, clock: Hands) -> tuple[Wanting, Wanting]:
    """Return a call that lasted longer than it may, and the one that has overtaken it."""
    slow = Process(store, min_interval=0.0, hold_timeout=10.0).wants("AddOrder")
    next_ = Process(store).wants()
    clock.forward(10.0)
    assert not next_.look()
    clock.forward(0.001)
    assert next_.look()
    return slow, next_


def test_a_call_that_lasts_too_long(store: Spied, clock: Hands) -> None:
    """After its time a call is overtaken with a greater nonce, and is on record as unknown (I5, I8)."""
    slow, next_ = overtaken(store, clock)
    assert next_.call.nonce > slow.call.nonce
    assert outcomes(store) == ["unknown"]


@pytest.mark.parametrize("late", ["ok", "error", "not_sent", "unknown"])
def test_the_late_outcome_of_an_overtaken_call(
    store: Spied, clock: Hands, late: Outcome
) -> None:
    """What an overtaken call comes to replaces `unknown`, and the call in flight is not touched."""
    slow, next_ = overtaken(store, clock)
    before = state_of(store).running
    slow.leave(late)
    assert state_of(store).running == before
    assert outcomes(store) == [late]
    next_.leave()
    assert outcomes(store) == [late, "ok"]


def test_the_late_refusal_of_an_overtaken_call(store: Spied, clock: Hands) -> None:
    """Its nonce was refused because a greater one was there: no jump, no count, no back-off (design §7)."""
    slow, next_ = overtaken(store, clock)
    before = state_of(store)
    slow.leave("invalid_nonce")
    after = state_of(store)
    assert outcomes(store) == ["invalid_nonce"]
    assert after == before._replace(settled=after.settled)
    next_.leave()


# --- the log


def test_waits_are_logged(
    gate: CallGate, store: Spied, caplog: pytest.LogCaptureFixture
) -> None:
    """Each wait says at DEBUG how long it was and why; no line has the API key in it (I11)."""
    caplog.set_level(logging.DEBUG, "persistent_nonce")
    with gate.call("Balance"):
        pass
    assert caplog.text == ""
    with gate.call("Ledgers"):
        pass
    assert f"Ledgers of key {gate.key} waited 200 ms for the interval" in caplog.text
    assert KEY not in caplog.text


def test_what_is_waited_for(store: Spied, clock: Hands) -> None:
    """The reason of a wait is the call in flight, the one before it, a back-off, the interval or the counter."""
    holder, first = Process(store, rate=Rate(50, 1)), Process(store)
    call, next_ = holder.wants("Ledgers"), first.wants()
    state = state_of(store)

    def reason(id: str = "x") -> str:
        return waits_for(state, Now(clock.wall(), clock.mono(), state.boot), id)

    assert reason() == f"Ledgers of process {holder.pid}"
    call.leave()
    state = state_of(store)
    assert reason() == f"the turn of process {first.pid}"
    assert reason(next_.call._id) == "the interval"
    clock.forward(1)
    assert reason(next_.call._id) == "the call counter"
    change(store, lambda s, now: recovery.lockout(s, now, SECOND, "busy"))
    state = state_of(store)
    assert reason(next_.call._id) == "the back-off (busy)"
    assert rules.mine(state, next_.call._id) is not None
