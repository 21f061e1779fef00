"""Which nonce comes next, and how far the mark may move: pure functions of a key's state and the time.

The guarantees kept here, numbered as in the README:

    I1, I2  issue: a nonce is greater than every one before it
    I4      ceiling: how far nonces go before the disk is asked again
    I10     issue, jump, ceiling: nothing above the bound; only raise_floor goes there,
            and nothing ever goes down
"""

from __future__ import annotations

from typing import Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import KeyClosedError, NonceRangeError, UnitMismatchError
from persistent_nonce.state import DEFAULT_UNIT, MAX_NONCE, UNITS, KeyState

__all__ = [
    "LARGEST_BLOCK",
    "ceiling",
    "check_open",
    "issue",
    "jump",
    "lift",
    "raise_floor",
    "reopen",
    "set_unit",
]

#: How far above a nonce the ceiling is committed: the most that a power cut skips.
_CEILING: Final = 5 * SECOND

#: The most nonces that are taken at once to be drawn one by one.
LARGEST_BLOCK: Final = 16_384


def check_open(state: KeyState) -> None:
    """Raise KeyClosedError if the key is closed."""
    if state.closed:
        raise KeyClosedError(
            f"key {state.key} is closed: {state.diagnosis}",
            "raise-floor, set-unit or reopen opens it for all processes",
        )


def issue(state: KeyState, now: Now, count: int = 1) -> KeyState:
    """Take `count` nonces; the new mark is the last of them (I1, I2, I10).

    Raises:
        NonceRangeError: the last of them would lie above the bound or above the greatest that is possible.
        KeyClosedError: the key is closed.
    """
    if state.closed:
        check_open(state)
    unit = state.unit or DEFAULT_UNIT
    reading = now.wall // UNITS[unit]
    greatest = state.greatest_nonce
    # A store that can keep no later time than MAX_NONCE gives this one.
    if reading >= MAX_NONCE or reading > greatest:
        raise NonceRangeError(
            f"the clock stands beyond the last nonce of key {state.key}, {greatest}",
            "set the clock, or use a coarser unit for a new key",
        )
    last = max(state.nonce + 1, reading) + count - 1
    state = state.marked(unit, last, max(state.seen, reading))
    if last > reading and last > state.bound:  # what the clock shows is within it
        if last > greatest:
            raise NonceRangeError(
                f"key {state.key} is out of nonces: {last} is above {greatest}",
                "create a new key",
            )
        ahead = (last - state.seen) * state.tick / SECOND
        raise NonceRangeError(
            f"key {state.key} would be {ahead:.0f} s ahead of its clock",
            "a runaway loop, or use a finer unit",
        )
    return state


def ceiling(state: KeyState) -> int:
    """Return how high nonces may go before the next commit with fsync (I4, I10)."""
    return max(state.nonce, min(state.nonce + _CEILING // state.tick, state.bound))


def jump(state: KeyState, now: Now, distance: int) -> KeyState:
    """Move the mark `distance` ns of ticks ahead of itself and of the clock, within the bound (I10)."""
    reading = now.wall // state.tick
    state = state._replace(seen=max(state.seen, reading))
    target = max(state.nonce, reading) + distance // state.tick
    nonce = max(state.nonce, min(target, state.bound))
    return state._replace(nonce=nonce, jumped_at=nonce)


def raise_floor(state: KeyState, now: Now, at_least: int) -> KeyState:
    """Let every further nonce be greater than `at_least`; never lowers. A mark that moved by it opens a closed key.

    Raises:
        NonceRangeError: no nonce would be left above `at_least`.
    """
    if not 0 <= at_least < state.greatest_nonce:
        raise NonceRangeError(
            f"a floor of {at_least} leaves no nonce above it",
            f"a floor lies between 0 and {state.greatest_nonce - 1}",
        )
    lowest = max(0, state.nonce - LARGEST_BLOCK)
    if lowest < at_least <= state.nonce < state.bound - 1:
        # It may lie within a block of nonces that somebody draws from, which is void once the mark moves. No block
        # ends so near to the bound that only one is left.
        return state if state.closed else state._replace(nonce=state.nonce + 1)
    return _raised(state, now, at_least)


def _raised(state: KeyState, now: Now, at_least: int) -> KeyState:
    if at_least <= state.nonce:
        return state
    seen = max(state.seen, now.wall // state.tick)
    offset = max(state.offset, at_least - seen)
    return reopen(
        state._replace(
            unit=state.unit or DEFAULT_UNIT, nonce=at_least, seen=seen, offset=offset
        )
    )


def lift(state: KeyState, now: Now, unit: str | None, nonce: int) -> KeyState:
    """Go on above `nonce` ticks of `unit`, what may have been issued since, and the clock; a closed key stays closed.

    For a state that may be older than what was issued, so that no ceiling can be trusted to be the last.
    """
    lifted = state
    if unit is not None and (state.unit is None or UNITS[unit] < state.tick):
        lifted = set_unit(state, now, unit)
    tick = UNITS[unit or DEFAULT_UNIT]
    least = max(-(-nonce * tick // lifted.tick), lifted.nonce)
    least = max(least + _CEILING // lifted.tick, now.wall // lifted.tick)
    lifted = _raised(lifted, now, min(least, MAX_NONCE - 1))
    return lifted._replace(
        refusals=state.refusals,
        diagnosis=state.diagnosis,
        closed=state.closed,
        ceiling=max(lifted.ceiling, lifted.nonce),
        synced=0,
    )


def reopen(state: KeyState) -> KeyState:
    """Open a closed key and forget its refusals."""
    return state._replace(refusals=0, diagnosis="", closed=False)


def set_unit(state: KeyState, now: Now, unit: str) -> KeyState:
    """Count in a finer unit from here on; opens a closed key.

    Raises:
        UnitMismatchError: the unit is coarser, so that nonces could not go on rising.
        NonceRangeError: the mark would not fit into the unit.
    """
    if unit == state.unit:
        return state
    if state.unit is not None and UNITS[unit] > state.tick:
        raise UnitMismatchError(
            f"key {state.key} counts in {state.unit}; {unit} is coarser",
            "nonces cannot go down: only a finer unit is possible",
        )
    factor = max(1, state.tick // UNITS[unit])  # a key without a unit has only zeros
    state = state._replace(
        unit=unit,
        nonce=state.nonce * factor,
        seen=state.seen * factor,
        offset=state.offset * factor,
        ceiling=state.ceiling * factor,
        synced=0,
        jumped_at=state.jumped_at * factor,
    )
    if max(state.nonce, state.seen, now.wall // UNITS[unit]) >= state.greatest_nonce:
        raise NonceRangeError(
            f"the mark of key {state.key} does not fit into {unit}", "create a new key"
        )
    return reopen(state._replace(ceiling=min(state.ceiling, MAX_NONCE)))
