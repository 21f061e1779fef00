"""What holds of nonces for every unit, every clock and every number of them."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from persistent_nonce import nonces, recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.state import (
    MAX_NONCE,
    UNITS,
    URGENT,
    KeyState,
    Recovery,
)
from tests.support.states import BOOT, KEY, WALL, fresh, running

YEAR = 366 * 86_400 * SECOND
IN_1969 = -86_400 * SECOND
IN_2300 = 10_413_792_000 * SECOND

#: Readings of a wall clock, some of them absurd.
CLOCKS = st.one_of(
    st.integers(WALL - YEAR, WALL + YEAR),
    st.sampled_from([0, 1, -1, IN_1969, IN_2300, 2**63, -(2**63)]),
    st.integers(-(2**64), 2**64),
)
SANE = st.integers(SECOND, MAX_NONCE - 1)  # at the last there is no nonce to come
UNIT = st.sampled_from([*UNITS])
COUNTS = st.one_of(st.just(1), st.integers(1, 1_000_000))


def at(wall: int) -> Now:
    """Return the time at this reading of the wall clock."""
    return Now(wall, SECOND, BOOT)


def model_bound(state: KeyState, readings: list[int]) -> int:
    """Return the bound as the guarantee words it (I10)."""
    seen = max([0, *readings]) // state.tick
    return min(seen + state.offset + 900 * SECOND // state.tick, MAX_NONCE)


@given(unit=UNIT, wall=SANE)
def test_a_fresh_key_starts_at_its_clock(unit: str, wall: int) -> None:
    """The first nonce of a fresh key lies at most 5 s ahead of the clock and less than a tick behind it."""
    state = nonces.issue(fresh(unit), at(wall))
    ahead = state.nonce * state.tick - wall
    assert -state.tick < ahead <= 5 * SECOND
    assert state.lead(wall) == pytest.approx(ahead / SECOND, abs=1e-6)


@given(unit=UNIT, wall=CLOCKS, length=st.sampled_from([60, 1, 600]))
def test_a_jump_is_as_long_as_it_says(unit: str, wall: int, length: int) -> None:
    """A jump of 60 s moves the mark 59 to 61 s ahead, in every unit and at every clock that leaves room."""
    state = fresh(unit)
    assume(0 <= wall // state.tick < MAX_NONCE - 900 * SECOND)
    state = nonces.issue(state, at(wall))
    after = nonces.jump(state, at(wall), length * SECOND)
    moved = (after.nonce - state.nonce) * state.tick / SECOND
    assert length - 1 <= moved <= length + 1
    assert after.jumped_at == after.nonce


@given(unit=UNIT, steps=st.lists(st.tuples(CLOCKS, COUNTS), min_size=1, max_size=20))
@example("ms", [(IN_2300, 1), (WALL, 1), (IN_1969, 1), (WALL, 1)])
@example("ns", [(2**63 - 2, 1), (2**63 - 2, 1), (0, 1)])
def test_nonces_rise_within_the_bound(unit: str, steps: list[tuple[int, int]]) -> None:
    """Whatever the clock does, ranges rise within the bound, or nothing is issued (I1, I2, I10)."""
    state = fresh(unit)
    readings: list[int] = []
    for wall, count in steps:
        try:
            after = nonces.issue(state, at(wall), count)
        except NonceRangeError:
            mark = max(state.nonce + 1, wall // state.tick) + count - 1
            assert mark > model_bound(state, [*readings, wall])
            continue
        readings.append(wall)
        assert after.nonce - count >= state.nonce
        assert after.nonce - count + 1 >= wall // state.tick
        assert after.nonce <= model_bound(after, readings) == after.bound
        assert after.nonce <= MAX_NONCE
        assert nonces.ceiling(after) <= after.bound
        assert after.nonce <= nonces.ceiling(after) <= MAX_NONCE
        state = after


def changed(kind: str, state: KeyState, now: Now, number: int) -> KeyState:
    """Return the state after a change of this kind."""
    match kind:
        case "issue":
            return nonces.issue(state, now, 1 + number % 1_000)
        case "jump":
            return nonces.jump(state, now, number % YEAR)
        case "floor":
            return nonces.raise_floor(state, now, number)
        case "wake":
            return rules.wake(state, now._replace(boot="boot-2")).state
        case _:
            return nonces.set_unit(state, now, "ns")


@given(
    unit=UNIT,
    steps=st.lists(
        st.tuples(
            st.sampled_from(["issue", "jump", "floor", "wake", "finer"]),
            CLOCKS,
            st.integers(0, MAX_NONCE),
        ),
        max_size=20,
    ),
)
def test_nothing_ever_lowers_a_mark(
    unit: str, steps: list[tuple[str, int, int]]
) -> None:
    """No rule lowers the mark or lets a stored number leave 0 to 2**63 - 1 (I10)."""
    state = fresh(unit)
    for kind, wall, number in steps:
        now = at(wall)
        try:
            after = changed(kind, state, now, number)
        except NonceRangeError:
            continue
        after = after._replace(ceiling=max(after.ceiling, nonces.ceiling(after)))
        assert after.nonce * after.tick >= state.nonce * state.tick
        assert after.bound * after.tick >= state.bound * after.tick
        if kind == "floor":
            assert after.nonce >= number
        for value in (after.nonce, after.offset, after.ceiling, after.jumped_at):
            assert 0 <= value <= MAX_NONCE
        assert after.nonce <= after.bound or after.nonce == after.ceiling
        state = after


@given(wall=SANE, count=st.integers(5_000, 100_000))
def test_a_runaway_loop_ends_at_15_minutes(wall: int, count: int) -> None:
    """A tight loop in ms with a standing clock ends in NonceRangeError at 15 minutes of lead, no sooner (I10)."""
    state = nonces.issue(fresh("ms"), at(wall))
    while state.nonce + count <= wall // 10**6 + 900_000:
        state = nonces.issue(state, at(wall), count)
    with pytest.raises(NonceRangeError, match="finer unit"):
        nonces.issue(state, at(wall), count)
    left = 900_000 - (state.nonce - wall // 10**6)
    assert 0 <= left < count
    if left:
        state = nonces.issue(state, at(wall), left)
    with pytest.raises(NonceRangeError):
        nonces.issue(state, at(wall))


@given(unit=UNIT, wall=st.integers(WALL, WALL + YEAR), used=st.integers(0, 10**9))
def test_another_boot_starts_above_what_may_have_been_issued(
    unit: str, wall: int, used: int
) -> None:
    """Whatever was issued up to the ceiling, a reboot starts above it, also with a wrong clock (I4)."""
    before = nonces.issue(fresh(unit), at(wall))
    top = nonces.ceiling(before)
    lost = min(before.nonce + used, top)
    state = before._replace(ceiling=top, synced=top)
    for clock in (wall, IN_1969, IN_2300, wall - YEAR):
        now = Now(clock, 5, "boot-2")
        woken = rules.wake(state, now).state
        assert woken.nonce == top
        assert woken.synced == 0
        if clock // woken.tick < MAX_NONCE - 1:
            assert nonces.issue(woken, now).nonce > lost


@given(
    wall=CLOCKS,
    length=st.integers(0, YEAR),
    clocks=st.lists(CLOCKS, max_size=6),
    priority=st.sampled_from([0, URGENT]),
)
@example(WALL, 1, [-1, IN_1969], 0)
def test_no_clock_step_lengthens_a_wait(
    wall: int, length: int, clocks: list[int], priority: int
) -> None:
    """After any clock steps, a back-off is no longer than it was set for, and over once that time has passed (I8)."""
    state = recovery.lockout(fresh(), at(wall), length, "x")
    assert recovery.rest(state, at(wall), priority) == length
    for clock in clocks:
        assert recovery.rest(state, at(clock), priority) <= length
        state = rules.clamp(state, at(clock))
        assert recovery.rest(state, at(clock), priority) <= length
        assert rules.clamp(state, at(clock)) is state
        assert recovery.rest(state, at(clock + length), priority) == 0


@given(
    settings=st.builds(
        Recovery,
        jump=st.floats(0, 1e7),
        wait=st.floats(0, 1e7),
        factor=st.floats(1, 1e7),
        attempts=st.just(100),
    ),
    unit=UNIT,
    refusals=st.integers(1, 100),
)
def test_refusals_are_bounded(settings: Recovery, unit: str, refusals: int) -> None:
    """However recovery is set, refusals in a row end with a closed key below the bound (I10)."""
    state = fresh(unit)._replace(attempts=refusals)
    for count in range(1, refusals + 1):
        now = at(WALL + count * SECOND)
        if state.nonce < state.bound:
            state = nonces.issue(state, now)
        state = recovery.refuse(state, now, running(nonce=state.nonce), settings)
        assert state.nonce <= model_bound(state, [now.wall])
        assert state.closed == (count == refusals)
    assert KEY not in state.diagnosis
