"""What a refused nonce and a lockout do to a key: one jump, one back-off, shared by all, or the end.

Pure functions of a key's state and the time. A jump stays within the bound (I10); a back-off is dated by
the wall clock, since it must survive a reboot.
"""

from __future__ import annotations

from typing import Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.nonces import jump
from persistent_nonce.state import URGENT, KeyState, Recovery, Running

__all__ = ["lockout", "refuse", "rest"]

#: The first retry after a refusal; the later ones wait `Recovery.wait` times their number.
_FIRST_RETRY: Final = 2 * SECOND

#: The longest jump that is computed with, in seconds; the bound is far below it.
_LONGEST_JUMP: Final = 1e9


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
    return lockout(state, now, length, f"refused nonce {call.nonce}", exempt=first)


def _distance(recovery: Recovery, refusals: int) -> int:
    try:
        distance = recovery.jump * recovery.factor ** (refusals - 1)
    except OverflowError:
        distance = _LONGEST_JUMP if recovery.jump else 0.0
    return round(min(distance, _LONGEST_JUMP) * SECOND)


def _diagnose(state: KeyState, now: Now, call: Running) -> str:
    lead = (call.nonce * state.tick - now.wall) / SECOND
    return (
        f"{state.refusals} nonces in a row were refused, the last {call.nonce} in "
        f"{state.unit}, {lead:.0f} s ahead of the clock. Another program "
        "uses this key, probably in a finer unit: stop it or give it a key of its own, "
        "raise the floor above its nonces, or create a new key"
    )
