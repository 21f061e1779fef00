"""What a call asks of its key, and what a lockout does to those who come and those who wait."""

from __future__ import annotations

from typing import Any

import pytest

from persistent_nonce import CallGate, recovery
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError, LockedOutError
from tests.support import stepped
from tests.support.simulated import Hands
from tests.support.stepped import Process, Spied, change, state_of

clock, store, gate = stepped.clock, stepped.store, stepped.gate


# --- asked for by a body


def test_a_body_asks_for_a_back_off(
    gate: CallGate, store: Spied, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """What a body asks of the key holds from the call's end on, for all processes, with its reason."""
    with gate.call("AddOrder") as call:
        call.back_off("first", 5)
        call.back_off("limited", 10, until=clock.wall() / SECOND + 20)
        assert state_of(store).not_before == 0
        clock.forward(1)
    assert recovery.rest(state_of(store), store.now(), 99) == 19 * SECOND
    assert "backs off for 19.0 s: limited" in caplog.text
    other = Process(store)
    with pytest.raises(LockedOutError, match="limited"):
        other.wants("CancelOrder", priority=99, timeout=18.9)
    assert other.clean
    assert not Process(store).wants("CancelOrder", timeout=19.1).inside


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": "10"},
        {"seconds": True},
        {"seconds": 10**9},
        {"until": -1},
        {"until": float("inf")},
        {"until": 2**63},
        {"until": None},
        {"most": -1},
        {"most": 10**9},
    ],
    ids=str,
)
def test_unusable_back_offs(
    gate: CallGate, store: Spied, wrong: dict[str, Any]
) -> None:
    """A back-off that cannot be is refused; the call, and what was asked before, stay as they were."""
    with gate.call("Balance") as call:
        call.settle("error", "no")
        call.back_off("limited", 10)
        with pytest.raises(ConfigurationError):
            call.back_off("wrong", **{"seconds": 5} | wrong)
    (record,) = store.calls()
    assert (record.outcome, record.said) == ("error", "no")
    assert recovery.rest(state_of(store), store.now(), 0) == 10 * SECOND
    assert state_of(store).reason == "limited"


def test_a_back_off_outside_a_call(gate: CallGate) -> None:
    """Only a call that has begun can ask anything of its key."""
    with pytest.raises(ConfigurationError, match="not begun"):
        gate.call("Balance").back_off("limited", 10)


def test_a_back_off_s_time_may_be_the_last(gate: CallGate, store: Spied) -> None:
    """The latest time that can be kept is a back-off of a day, with its reason cut to what fits."""
    with gate.call("Balance") as call:
        call.back_off("x" * 300, 0, until=2**63 // SECOND)
    assert recovery.rest(state_of(store), store.now(), 0) == 86_400 * SECOND
    assert state_of(store).reason == "x" * 200


# --- lockouts


def test_a_lockout_longer_than_the_timeout(store: Spied, clock: Hands) -> None:
    """A call whose deadline cannot be met fails at once and says why and how long (design §8)."""
    process = Process(store)
    change(store, lambda s, now: recovery.lockout(s, now, 100 * SECOND, "EGeneral:x"))
    begin = clock.mono()
    with pytest.raises(LockedOutError, match=r"EGeneral:x; 100\.0 s to wait"):
        process.gate.call("Balance", timeout=60).__enter__()
    assert clock.mono() == begin
    assert state_of(store).queue == ()
    assert process.clean
    with process.gate.call("Balance", timeout=120) as call:
        assert call.waited == pytest.approx(100, abs=1e-3)


def test_a_lockout_that_comes_while_waiting(store: Spied, clock: Hands) -> None:
    """Those who wait already fail at their next look."""
    call, process = Process(store).wants(), Process(store)
    waiting = process.wants(timeout=10)
    call.leave()
    change(store, lambda s, now: recovery.lockout(s, now, 100 * SECOND, "busy"))
    with pytest.raises(LockedOutError):
        waiting.look()
    assert process.clean
