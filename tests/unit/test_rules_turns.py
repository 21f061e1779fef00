"""How long a turn lasts, who is passed over, and until when a waiter may look away, by examples."""

from __future__ import annotations

import pytest

from persistent_nonce import recovery, rules
from persistent_nonce.clock import SECOND
from persistent_nonce.state import Rate, Turn
from tests.support.ruling import admit, finish, queued, started
from tests.support.states import HOLD, at, fresh, waiting

# --- passing over


def test_a_head_that_lets_its_turn_pass() -> None:
    """After one second, not sooner, the next in line starts; the whole session of the head is late (I7)."""
    state = queued("a1", "b", "a2")
    assert admit(state, at(0.999_999_999), "b").running is None
    state = admit(state, at(1), "b")
    assert started(state).id == "b"
    assert {call.id: call.late for call in state.queue} == {"a1": True, "a2": True}


def test_the_second_of_a_stopped_session_costs_no_second() -> None:
    """A session that was passed over once is not waited for again (I7)."""
    state = admit(queued("a1", "a2", "b", "c"), at(1), "b")
    state = finish(state, at(1.1)).state
    assert started(admit(state, at(1.2), "c")).id == "c"


def test_the_third_in_line_may_notice() -> None:
    """Anybody may pass the head over; then it is the second one's turn, for a second of its own (I7)."""
    state = admit(queued("a", "b", "c"), at(1), "c")
    assert state.running is None
    assert state.turn == Turn("b", at(1).mono)
    assert admit(state, at(1.9), "c").running is None
    assert started(admit(state, at(2), "c")).id == "c"


def test_a_late_waiter_that_moves_is_back_at_its_ticket() -> None:
    """A process that goes on is where it was, before those who came after it (I7)."""
    state = admit(queued("a", "b", "c"), at(1), "b")
    state = finish(state, at(1.1)).state
    assert rules.outlook(state, at(1.1), "a") == 0
    state = admit(state, at(1.15), "a")
    assert state.turn == Turn("a", at(1.2).mono)
    assert admit(state, at(1.25), "c").running is None
    assert started(admit(state, at(1.25), "a")).id == "a"


def test_an_absent_head_is_not_shielded_by_urgent_calls() -> None:
    """A head's second goes on where it stood when urgent calls came before it (I7)."""
    state, time = queued("absent", "live", state=fresh(interval=0)), 0.0
    for turn in range(3):
        time += 0.4
        urgent = f"urgent {turn}"
        state = rules.join(state, at(time), waiting(urgent, session="u", priority=20))
        state = finish(admit(state, at(time), urgent), at(time)).state
    assert started(admit(state, at(time), "live")).id == "live"


def test_a_head_that_moves_has_its_second_anew() -> None:
    """What a live head let pass before an urgent call came first is not held against it later (I7)."""
    state = queued("head", "next", state=fresh(interval=0))
    state = rules.join(state, at(0.9), waiting("u", session="u", priority=20))
    assert [call.passed for call in state.queue] == [9 * SECOND // 10, 0, 0]
    state = admit(state, at(0.9), "head")
    assert not any(call.passed for call in state.queue)


def test_nobody_is_passed_over_while_it_could_not_start() -> None:
    """The second begins when the head could start: after the running call, the interval, the counter, the back-off."""
    state = admit(queued("a", "b", "c", state=fresh(rate=Rate(5.0, 1))), at(), "a")
    state = finish(state, at(30)).state
    assert state.turn == Turn("b", at(35).mono)
    assert not any(call.late for call in admit(state, at(35.9), "c").queue)
    locked = recovery.lockout(state, at(35), 60 * SECOND, "x")
    locked = admit(locked, at(35), "c")
    assert not any(call.late for call in admit(locked, at(95.9), "c").queue)
    assert any(call.late for call in admit(locked, at(96), "c").queue)


@pytest.mark.parametrize("step", [2.0, -2.0, -3_600.0])
def test_a_clock_step_moves_the_turn_with_the_back_off(step: float) -> None:
    """The head's second begins when its back-off ends by the clock as it is now (I7, I8)."""
    state = recovery.lockout(queued("a", "b"), at(), 5 * SECOND, "x")
    state = admit(state, at(1), "b")
    now = at(2, step=step)
    state = rules.clamp(state, now)
    end = at(2).mono + recovery.rest(state, now, 0)
    state = admit(state, now, "b")
    assert state.turn == Turn("a", end)


def test_the_outlook_follows_a_turn_brought_forward() -> None:
    """A waiter behind a head whose back-off a clock step has ended acts at once, then gives it its second (I7)."""
    state = recovery.lockout(queued("a", "b"), at(), 900 * SECOND, "x")
    state = admit(state, at(1), "b")
    now = at(2, step=3_600)
    assert rules.outlook(state, now, "b") == 0
    state = admit(state, now, "b")
    assert rules.outlook(state, now, "b") == SECOND


# --- the outlook


def test_outlook() -> None:
    """A waiter learns when it may start, when the head is to be passed over, when the running call is overtaken."""
    state = queued("a", "b")
    assert rules.outlook(state, at(), "a") == 0
    assert rules.outlook(state, at(0.25), "b") == SECOND * 3 // 4
    assert rules.outlook(state, at(2), "b") == 0
    state = admit(state, at(), "a")
    assert rules.outlook(state, at(1), "b") == HOLD - SECOND + 1
    state = finish(state, at(0.1)).state
    assert rules.outlook(state, at(0.1), "b") == SECOND // 10
    assert rules.outlook(state, at(), "nobody") == 0


def test_outlook_of_a_state_that_has_to_be_clamped() -> None:
    """A look that sees an impossible time asks for a transaction, which corrects it (I8)."""
    state = recovery.lockout(queued("a"), at(), 5 * SECOND, "x")
    assert rules.outlook(state, at(), "a") == 5 * SECOND
    assert rules.outlook(state, at(step=-1), "a") == 0
