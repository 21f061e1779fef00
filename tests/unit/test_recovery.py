"""What a refused nonce and a lockout do to a key, shared by all its processes."""

from __future__ import annotations

import pytest

from persistent_nonce import recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.nonces import issue, jump
from persistent_nonce.state import URGENT, BackOff, KeyState, Rate, Recovery, Turn
from tests.support.states import WALL, at, fresh, running

MS = WALL // 10**6


def refused(
    state: KeyState, now: Now, settings: Recovery | None = None
) -> tuple[KeyState, int]:
    """Issue a nonce at `now` and have it refused at once; return the state and that nonce."""
    state = issue(state, now)
    call = running(nonce=state.nonce)
    return recovery.refuse(state, now, call, settings or Recovery()), state.nonce


def test_the_first_refusal() -> None:
    """It jumps 60 s ahead, backs off for 2 s, and lets urgent calls through."""
    state, nonce = refused(fresh(), at())
    assert state.nonce == state.jumped_at == nonce + 60_000
    assert (state.refusals, state.closed, state.exempt) == (1, False, True)
    assert recovery.rest(state, at(), 0) == 2 * SECOND
    assert recovery.rest(state, at(), URGENT - 1) == 2 * SECOND
    assert recovery.rest(state, at(), URGENT) == 0
    assert str(nonce) in state.reason


def test_the_second_refusal() -> None:
    """It jumps ten times as far and backs off for 30 s, for urgent calls too."""
    state, _ = refused(fresh(), at())
    before = state.nonce
    state, _ = refused(state, at(2))
    assert state.nonce == before + 1 + 600_000
    assert recovery.rest(state, at(2), URGENT) == 30 * SECOND


def test_the_third_refusal_closes() -> None:
    """The last of the stored attempts closes the key with a diagnosis, without a jump or a back-off."""
    state, _ = refused(fresh(), at())
    state, _ = refused(state, at(2))
    state, nonce = refused(state, at(40))
    assert state.closed
    assert state.nonce == nonce
    assert recovery.rest(state, at(40), 0) == 0
    for word in ("3 nonces", str(nonce), "ms", "ahead", "Another program", "new key"):
        assert word in state.diagnosis


def test_the_stored_attempts_decide() -> None:
    """Not the caller's own number of attempts but the stored one closes the key."""
    state, _ = refused(fresh()._replace(attempts=1), at(), Recovery(attempts=9))
    assert state.closed
    state, _ = refused(fresh(), at(), Recovery(attempts=1))
    assert not state.closed


def test_later_retries_wait_longer() -> None:
    """The n-th retry follows after wait times n - 1."""
    state = fresh()._replace(attempts=5)
    waits = []
    for n in range(4):
        state, _ = refused(state, at(1000 * n), Recovery(wait=10))
        waits.append(recovery.rest(state, at(1000 * n), 0) // SECOND)
    assert waits == [2, 10, 20, 30]


def test_one_refusal_one_jump() -> None:
    """There is no jump when another was made since the refused nonce was issued."""
    state = issue(fresh(), at())
    call = running(nonce=state.nonce)
    state = jump(state, at(), 60 * SECOND)
    after = recovery.refuse(state, at(), call, Recovery())
    assert after.nonce == state.nonce
    assert after.refusals == 1
    assert recovery.rest(after, at(), 0) == 2 * SECOND


def test_an_older_jump_does_not_count() -> None:
    """A nonce issued after a jump and refused all the same causes the next."""
    state = jump(issue(fresh(), at()), at(), 60 * SECOND)
    after, nonce = refused(state, at())
    assert after.nonce == nonce + 60_000


def test_no_jump_passes_the_bound() -> None:
    """The largest jump ends at the bound (I10)."""
    state, nonce = refused(fresh(), at(), Recovery(jump=31_622_400.0))
    assert state.nonce == state.bound == nonce + 900_000


@pytest.mark.parametrize(("jumping", "lead"), [(60.0, 900_000), (0.0, 0)])
def test_an_endless_factor(jumping: float, lead: int) -> None:
    """Settings whose product no float holds still give a bounded jump, or none."""
    settings = Recovery(jump=jumping, factor=1e7, attempts=100)
    state = fresh()._replace(attempts=100, refusals=98)
    state, nonce = refused(state, at(), settings)
    assert state.nonce == nonce + lead


def test_a_floor_45_s_ahead_is_healed_by_one_jump_and_5_min_by_two() -> None:
    """The default jumps heal what was seen in practice, within the bound."""
    state, _ = refused(fresh(), at())
    assert issue(state, at(2)).nonce > MS + 45_000
    state, _ = refused(state, at(2))
    assert issue(state, at(32)).nonce > MS + 300_000


def test_lockout() -> None:
    """A lockout holds for its length, for all priorities, and says why."""
    state = recovery.lockout(fresh(), at(), 900 * SECOND, "temporary lockout")
    assert recovery.rest(state, at(), URGENT) == 900 * SECOND
    assert recovery.rest(state, at(899), 0) == SECOND
    assert recovery.rest(state, at(900), 0) == 0
    assert recovery.rest(state, at(5_000), 0) == 0
    assert state.reason == "temporary lockout"


def test_the_longer_back_off_stays() -> None:
    """A shorter one changes nothing, a longer one replaces, whoever's turn it is begins anew."""
    state = recovery.lockout(fresh(), at(), 900 * SECOND, "long")
    assert recovery.lockout(state, at(1), 5 * SECOND, "short") is state
    state = state._replace(turn=Turn("a", 0))
    longer = recovery.lockout(state, at(890), 60 * SECOND, "longer")
    assert recovery.rest(longer, at(890), 0) == 60 * SECOND
    assert (longer.reason, longer.turn) == ("longer", None)


def test_a_longer_back_off_ends_the_exemption() -> None:
    """A lockout that replaces the back-off of a first refusal holds for urgent calls too."""
    state, _ = refused(fresh(), at())
    state = recovery.lockout(state, at(), 60 * SECOND, "throttled")
    assert recovery.rest(state, at(), URGENT) == 60 * SECOND


@pytest.mark.parametrize("back", [1, 10, 3_600, 10**9, 10**10])
def test_a_clock_set_back_lengthens_no_back_off(back: int) -> None:
    """No clock step makes a back-off longer than it was set for, even before the state is clamped (I8)."""
    state = recovery.lockout(fresh(), at(), 5 * SECOND, "x")
    assert recovery.rest(state, at(1, step=-back), 0) <= 5 * SECOND


def test_an_old_back_off_in_the_future_hides_no_new_lockout() -> None:
    """After the clock was set back, one that is long over does not keep a lockout from being set (I8)."""
    state = recovery.lockout(fresh(), at(), 2 * SECOND, "over")
    now = at(10, step=-3_600)
    state = recovery.lockout(state, now, 900 * SECOND, "locked out")
    assert recovery.rest(state, now, 0) == 900 * SECOND


@pytest.mark.parametrize("wall", [-1, -SECOND, -(10**19), 0])
def test_a_clock_before_1970_is_no_back_off(wall: int) -> None:
    """A key without a back-off has none at any clock, and can be given one there."""
    now = at()._replace(wall=wall)
    assert recovery.rest(fresh(), now, 0) == 0
    state = recovery.lockout(fresh(), now, 5 * SECOND, "x")
    assert recovery.rest(state, now, 0) == 5 * SECOND
    over = now._replace(wall=wall + 5 * SECOND)
    assert recovery.rest(state, over, 0) == 0


# --- what a reply asks of the whole key

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


def test_a_short_back_off_after_a_long_one_holds_and_forgets_nothing() -> None:
    """It lasts as long as it was asked for, and the next failure waits twice as long as the longest before."""
    state = recovery.back_off(fresh(), at(), LIMITED)
    short = LIMITED._replace(reason="short", length=SECOND, most=SECOND)
    state = recovery.back_off(state, at(11), short)
    assert recovery.rest(state, at(11), 0) == SECOND
    assert recovery.rest(state, at(12), 0) == 0
    state = recovery.back_off(state, at(13), LIMITED)
    assert recovery.rest(state, at(13), 0) == 20 * SECOND
