"""What a reply asks of the whole key: how long all wait, and what the end of its call makes of that."""

from __future__ import annotations

import pytest

from persistent_nonce import recovery, rules
from persistent_nonce.clock import SECOND
from persistent_nonce.nonces import issue
from persistent_nonce.state import URGENT, BackOff, KeyState, Rate, Recovery
from tests.support.ruling import refused
from tests.support.states import WALL, at, fresh, running

LIMITED = BackOff("limited", 10 * SECOND, most=30 * SECOND)


def test_back_off_for_a_length() -> None:
    """A reply that names a length holds up all priorities for it, says why, and leaves nonces alone."""
    before = issue(fresh(), at())
    state = recovery.back_off(before, at(), LIMITED)
    assert recovery.rest(state, at(), URGENT) == 10 * SECOND
    assert recovery.rest(state, at(10), 0) == 0
    assert (state.reason, state.refusals, state.nonce) == ("limited", 0, before.nonce)


@pytest.mark.parametrize(
    ("until", "seconds"),
    [(0, 5), (-60, 5), (4, 5), (6, 6), (3_600, 3_600), (86_400, 86_400)],
)
def test_back_off_until_a_time(until: float, seconds: int) -> None:
    """The later of the length's end and the time that is named holds."""
    asked = BackOff("throttled", 5 * SECOND, until=WALL + round(until * SECOND))
    state = recovery.back_off(fresh(), at(), asked)
    assert recovery.rest(state, at(), 0) == seconds * SECOND


@pytest.mark.parametrize(
    "asked",
    [
        BackOff("x", 0, until=WALL + 86_401 * SECOND),
        BackOff("x", 0, until=2**63),
        BackOff("x", 366 * 86_400 * SECOND),
    ],
    ids=["a time", "the last time", "a length"],
)
def test_no_back_off_is_longer_than_a_day(asked: BackOff) -> None:
    """However far ahead the time lies that a reply names, the key is free again after a day."""
    state = recovery.back_off(fresh(), at(), asked)
    assert recovery.rest(state, at(), 0) == 86_400 * SECOND


def test_the_same_again_doubles() -> None:
    """When the same is said again soon, the back-off doubles, up to its most."""
    state, time, waits = fresh(), 0.0, []
    for _ in range(4):
        state = recovery.back_off(state, at(time), LIMITED)
        waits.append(recovery.rest(state, at(time), 0) // SECOND)
        time += waits[-1] + 1
    assert waits == [10, 20, 30, 30]


def test_a_most_below_the_length_shortens_nothing() -> None:
    """A back-off that does not grow is the same each time."""
    asked = BackOff("locked out", 900 * SECOND, most=900 * SECOND)
    state = recovery.back_off(fresh(), at(), asked)
    state = recovery.back_off(state, at(901), asked)
    assert recovery.rest(state, at(901), 0) == 900 * SECOND
    state = recovery.back_off(state, at(1_900), asked._replace(most=0))
    assert recovery.rest(state, at(1_900), 0) == 900 * SECOND


@pytest.mark.parametrize(("later", "seconds"), [(69, 20), (70, 10), (3_600, 10)])
def test_later_than_a_minute_does_not_double(later: float, seconds: int) -> None:
    """A minute after the end of the back-off, the same begins anew."""
    state = recovery.back_off(fresh(), at(), LIMITED)
    state = recovery.back_off(state, at(later), LIMITED)
    assert recovery.rest(state, at(later), 0) == seconds * SECOND


def test_another_reason_doubles_too() -> None:
    """All failures of a key count together, so another one right after the first makes the pause longer."""
    state = recovery.back_off(fresh(), at(), LIMITED)
    state = recovery.back_off(state, at(11), LIMITED._replace(reason="other"))
    assert recovery.rest(state, at(11), 0) == 20 * SECOND
    assert state.reason == "other"


@pytest.mark.parametrize("rate", [Rate(3.0, 14), None], ids=["counted", "not counted"])
def test_full(rate: Rate | None) -> None:
    """A full counter is full at the end of the back-off, if there is one: the next unit fits when one has drained."""
    state = fresh(rate=rate)
    assert recovery.back_off(state, at(), LIMITED).tat == 0
    full = recovery.back_off(state, at(), LIMITED._replace(full=True))
    assert full.tat == (0 if rate is None else at(10).mono + 14 * 3 * SECOND)
    fuller = full._replace(tat=full.tat + 60 * SECOND)
    asked = LIMITED._replace(full=True)
    assert recovery.back_off(fuller, at(), asked).tat == fuller.tat


def test_a_longer_back_off_that_is_set_stays() -> None:
    """A short back-off does not end a lockout, but the counter is full all the same."""
    state = recovery.lockout(fresh(rate=Rate(3.0, 14)), at(), 900 * SECOND, "long")
    after = recovery.back_off(state, at(1), LIMITED._replace(full=True))
    assert recovery.rest(after, at(1), 0) == 899 * SECOND
    assert after.reason == "long"
    assert after.tat > state.tat


def test_a_back_off_ends_an_exemption() -> None:
    """Longer than the wait after a first refusal, it holds for urgent calls too."""
    state, _ = refused(fresh(), at())
    state = recovery.back_off(state, at(), LIMITED)
    assert recovery.rest(state, at(), URGENT) == 10 * SECOND


def test_a_short_back_off_after_a_long_one_holds_and_forgets_nothing() -> None:
    """It lasts as long as it was asked for, and the next failure waits twice as long as the longest before."""
    state = recovery.back_off(fresh(), at(), LIMITED)
    short = LIMITED._replace(reason="short", length=SECOND, most=SECOND)
    state = recovery.back_off(state, at(11), short)
    assert recovery.rest(state, at(11), 0) == SECOND
    assert recovery.rest(state, at(12), 0) == 0
    state = recovery.back_off(state, at(13), LIMITED)
    assert recovery.rest(state, at(13), 0) == 20 * SECOND


# --- the end of a call


def running_in(state: KeyState, id: str = "a") -> KeyState:
    """Let a call run, with the next nonce."""
    state = issue(state, at())
    return state._replace(running=running(id, nonce=state.nonce))


def test_the_end_of_a_call_asks() -> None:
    """A call's end does what its reply asks of the key, records what was said, and lets the next one wait."""
    state = running_in(fresh(rate=Rate(3.0, 14)))
    assert state.running is not None
    asked = LIMITED._replace(full=True)
    state, (record,) = rules.finish(
        state, at(1), state.running, "error", Recovery(), asked=asked, said="no"
    )
    assert (record.outcome, record.said, record.took) == ("error", "no", SECOND)
    assert recovery.rest(state, at(1), 0) == 10 * SECOND
    assert state.tat >= at(1).mono + 14 * 3 * SECOND
    assert state.running is None


def test_nothing_asked_nothing_done() -> None:
    """A call's end that asks nothing leaves the key's back-off and its reason alone."""
    state = running_in(fresh())
    assert state.running is not None
    state = rules.finish(state, at(), state.running, "error", Recovery()).state
    assert (state.not_before, state.set_at, state.reason) == (0, 0, "")


@pytest.mark.parametrize("other", [True, False], ids=["overtaken", "ended before"])
def test_a_late_reply_asks_all_the_same(other: bool) -> None:
    """What a reply asks of the key is as true when its call runs no more; the running one goes on."""
    call = running("late", nonce=1)
    state = running_in(fresh(), "next") if other else fresh()
    before = state.running
    state, (record,) = rules.finish(
        state, at(2), call, "error", Recovery(), asked=LIMITED, said="no"
    )
    assert recovery.rest(state, at(2), 0) == 10 * SECOND
    assert (record.id, record.outcome, record.said) == ("late", "error", "no")
    assert state.running == before


def test_a_late_refusal_moves_nothing() -> None:
    """A refusal of a call that runs no more is recorded, and neither counted nor followed by a jump."""
    call = running("late", nonce=1)
    before = running_in(fresh(), "next")
    state = rules.finish(before, at(2), call, "invalid_nonce", Recovery()).state
    assert state == before._replace(settled=1)


def test_healed_by_the_success_that_ends_the_refusals() -> None:
    """The first success after refusals is named, and no success before or after it."""
    state = running_in(fresh(), "before")
    assert state.running is not None
    state = rules.finish(state, at(), state.running, "ok", Recovery()).state
    assert state.healed == ""
    for id, outcome, healed, refusals in (
        ("refused", "invalid_nonce", "", 1),
        ("lost", "unknown", "", 1),
        ("first", "ok", "first", 0),
        ("second", "ok", "first", 0),
    ):
        state = running_in(state, id)
        assert state.running is not None
        call = state.running
        state = rules.finish(state, at(), call, outcome, Recovery()).state  # type: ignore[arg-type]  # one of them
        assert (state.healed, state.refusals) == (healed, refusals), id


def test_a_late_success_heals_nothing() -> None:
    """The success of a call that runs no more tells nothing of the nonces that were refused since."""
    state = running_in(fresh(), "next")._replace(refusals=2)
    state = rules.finish(state, at(), running("late"), "ok", Recovery()).state
    assert (state.refusals, state.healed) == (2, "")


def test_an_order_that_was_refused_for_itself_heals_too() -> None:
    """The nonce was good when the exchange says no to what was asked; not when it says no to the key."""
    refused = running_in(fresh()._replace(refusals=2), "call")
    call = refused.running
    assert call is not None
    state = rules.finish(refused, at(), call, "error", Recovery()).state
    assert (state.refusals, state.healed) == (0, "call")
    state = rules.finish(refused, at(), call, "error", Recovery(), asked=LIMITED).state
    assert (state.refusals, state.healed) == (2, "")
