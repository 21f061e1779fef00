"""What a refusal and a lockout do to a key: one jump, one back-off, shared by all, or the end.

Pure functions of a key's state and the time. A jump stays within the bound (I10); a back-off is dated by
the wall clock, since it must survive a reboot.
"""

from __future__ import annotations

from typing import Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.nonces import jump
from persistent_nonce.order import forgive
from persistent_nonce.state import UNITS, URGENT, BackOff, KeyState, Recovery, Running

__all__ = ["back_off", "lockout", "refuse", "rest"]

#: The first retry after a refusal; the later ones wait `Recovery.wait` times their number.
_FIRST_RETRY: Final = 2 * SECOND

#: The longest jump that is computed with, in seconds; the bound is far below it.
_LONGEST_JUMP: Final = 1e9

#: The longest back-off that a reply is believed: a time that it names may be in another unit, or a clock be wrong.
_LONGEST: Final = 86_400 * SECOND

#: A back-off that ended no longer ago makes the next one longer.
_SOON: Final = 60 * SECOND

#: How much of it counts for that.
_COUNTED: Final = 30 * SECOND


def rest(state: KeyState, now: Now, priority: int) -> int:
    """Return the nanoseconds left of the shared back-off, for a call of this priority."""
    if state.exempt and priority >= URGENT:
        return 0
    return max(0, _left(state, now))


def _left(state: KeyState, now: Now) -> int:
    # Not before it was set, as `clamp` will store it: neither does a clock set back make it longer (I8), nor is
    # a clock before 1970 a back-off until then.
    return state.not_before - max(now.wall, state.set_at)


def lockout(
    state: KeyState, now: Now, length: int, reason: str, *, exempt: bool = False
) -> KeyState:
    """Let no call of the key start for `length` ns; a longer back-off that is set already stays."""
    if _left(state, now) >= length:
        return state
    return state._replace(
        not_before=now.wall + length,
        set_at=now.wall,
        reason=reason,
        exempt=exempt,
        turn=None,  # whoever is next, its turn begins later
    )


def back_off(state: KeyState, now: Now, asked: BackOff) -> KeyState:
    """Do what a reply asks of the whole key: let no call start for a time, and take its counter for full.

    Whatever the last back-off was for makes this one longer: all failures of a key count together towards a lockout.
    """
    last = 0
    if now.wall < state.not_before + _SOON:
        last = min(state.not_before - state.set_at, _COUNTED)
    length = max(asked.length, asked.until - now.wall)
    length = min(max(length, min(2 * last, asked.most)), _LONGEST)
    state = lockout(state, now, length, asked.reason)
    if state.not_before - state.set_at < last:
        # Dated back: a short pause after a long one does not make the next one begin anew.
        state = state._replace(set_at=state.not_before - last)
    if asked.full and state.every is not None:
        # Full at the end of the back-off: refused calls count too, so that the exchange's may be more than full now.
        full = now.mono + max(0, _left(state, now)) + state.burst * state.every
        state = state._replace(tat=max(state.tat, full))
    return state


def refuse(state: KeyState, now: Now, call: Running, recovery: Recovery) -> KeyState:
    """Count a refused nonce: jump ahead and back off, for all processes, or close the key.

    There is no jump when another has been made since the nonce was issued: one refusal, one jump.
    """
    refusals = state.refusals + 1
    state = state._replace(refusals=refusals)
    if refusals >= state.most_attempts:
        return state._replace(closed=True, diagnosis=_diagnose(state, now, call))
    if state.jumped_at <= call.nonce:
        state = jump(state, now, _distance(recovery, refusals))
    first = refusals == 1
    length = _FIRST_RETRY if first else round(recovery.wait * (refusals - 1) * SECOND)
    state = lockout(state, now, length, f"refused nonce {call.nonce}", exempt=first)
    # Who has become the oldest must not hold up the urgent calls that need not wait for this.
    return forgive(state) if first else state


def _distance(recovery: Recovery, refusals: int) -> int:
    try:
        distance = recovery.jump * recovery.factor ** (refusals - 1)
    except OverflowError:
        distance = _LONGEST_JUMP if recovery.jump else 0.0
    return round(min(distance, _LONGEST_JUMP) * SECOND)


def _diagnose(state: KeyState, now: Now, call: Running) -> str:
    """Say what was tried, the lead, the probable cause, and what to do."""
    lead = (call.nonce * state.tick - now.wall) / SECOND
    tried = f"{state.refusals} nonces in a row were refused"
    if state.refusals > 1:  # all but the last have moved the mark
        tried += f", also after a jump to {state.jumped_at}"
    finer = [unit for unit, tick in UNITS.items() if tick < state.tick]
    cause = "has used this key with nonces still further ahead"
    if finer:
        cause += f", probably in a finer unit ({', '.join(finer)})"
    return (
        f"{tried}; the last was {call.nonce} in {state.unit}, {lead:.0f} s ahead of the clock. "
        f"Another program {cause}: stop it, or give it a key of its own; then "
        f"{'set-unit to the unit it counts in, or ' if finer else ''}"
        "raise-floor above its nonces, or create a new key"
    )
