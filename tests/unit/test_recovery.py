"""What a refused nonce and a lockout do to a key, shared by all its processes."""

from __future__ import annotations

import pytest

from persistent_nonce import recovery
from persistent_nonce.clock import SECOND
from persistent_nonce.nonces import issue, jump
from persistent_nonce.state import URGENT, Recovery, Turn
from tests.support.ruling import refused
from tests.support.states import WALL, at, fresh, running

MS = WALL // 10**6


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
