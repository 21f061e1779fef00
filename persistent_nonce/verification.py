"""What the exchange says of a key, held against what is known of it here: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.findings import Finding
from persistent_nonce.nonces import raise_floor
from persistent_nonce.state import UNITS, CallRecord, KeyState

__all__ = ["KeyInfo", "compare", "conclude", "finer_unit", "healed"]

#: A number that reads, in a unit, as a time so near to now was probably made in that unit.
_NEAR: Final = 5 * 366 * 86_400 * SECOND

#: Nanoseconds by which the exchange's clock and ours may differ unnoticed.
_SKEW: Final = 5 * SECOND

_STOP: Final = "stop that program, or give it a key of its own"


class KeyInfo(NamedTuple):
    """What the exchange says of a key.

    Attributes:
        nonce: the greatest it has accepted, of this question or of the call before.
        window: in ticks, within which a lower nonce is tolerated.
        last_used: Unix time, if it can be read.
    """

    nonce: int
    window: int
    last_used: float | None = None


def finer_unit(nonce: int, state: KeyState, now: Now) -> str | None:
    """Return the unit finer than the key's in which `nonce` reads as a time near to now, if it is none in its own."""
    if abs(nonce * state.tick - now.wall) < _NEAR:
        return None
    for unit, tick in UNITS.items():
        if tick < state.tick and abs(nonce * tick - now.wall) < _NEAR:
            return unit
    return None


def compare(
    state: KeyState,
    now: Now,
    info: KeyInfo,
    asked: int,
    known: Iterable[CallRecord],
) -> list[Finding]:
    """Return what was found about floor, unit, nonce window and last use.

    Args:
        state: the key's, after the question.
        now: likewise.
        info: the answer.
        asked: the nonce of the question.
        known: the calls that are on record here.
    """
    calls = list(known)
    return [
        _floor(state, now, info, asked, [call.nonce for call in calls]),
        _unit(state, now, info),
        _window(info),
        _last_use(now, info, calls),
    ]


def healed(state: KeyState) -> Finding:
    """Return what a nonce means that was refused, although each was greater than every one before from here."""
    return Finding(
        "refusals",
        wrong=True,
        said=f"nonces were refused until a jump to {state.jumped_at}, so another program has used this key",
        do=_STOP,
    )


def _floor(
    state: KeyState, now: Now, info: KeyInfo, asked: int, known: Collection[int]
) -> Finding:
    ahead = (info.nonce * state.tick - now.wall) / SECOND
    said = f"the exchange has accepted {info.nonce}"
    if info.nonce == asked or info.nonce in known:
        return Finding("floor", wrong=False, said=f"{said}, which was issued here")
    if info.nonce > state.nonce:
        return Finding(
            "floor",
            wrong=True,
            said=f"{said}, {ahead:.0f} s ahead of the clock; the last issued here is {state.nonce}, "
            "so another program uses this key",
            do=_STOP,
        )
    if known and info.nonce > min(known):
        return Finding(
            "floor",
            wrong=True,
            said=f"{said}, which no call on record here had: another program uses this key",
            do=_STOP,
        )
    return Finding("floor", wrong=False, said=f"{said}; {state.nonce} was issued here")


def _unit(state: KeyState, now: Now, info: KeyInfo) -> Finding:
    unit = finer_unit(info.nonce, state, now)
    if unit is None:
        return Finding("unit", wrong=False, said=f"nonces are in {state.unit}")
    return Finding(
        "unit",
        wrong=True,
        said=f"{info.nonce} looks like a time in {unit}, but the key counts in {state.unit}: "
        f"another program uses this key in {unit}",
        do=f"{_STOP}; then persistent-nonce set-unit {state.key} {unit}, or create a new key",
    )


def _window(info: KeyInfo) -> Finding:
    if not info.window:
        return Finding("nonce window", wrong=False, said="0")
    return Finding(
        "nonce window",
        wrong=True,
        said=f"{info.window} ticks: the exchange takes nonces out of order, so that a request sent twice may be "
        "executed twice",
        do="set it to 0 in the settings of the API key",
    )


def _last_use(now: Now, info: KeyInfo, known: Sequence[CallRecord]) -> Finding:
    if info.last_used is None:
        return Finding("last use", wrong=False, said="the exchange does not say")
    used = round(info.last_used * SECOND)
    said = f"at {_moment(used)} by the exchange's clock"
    if abs(now.wall - used) <= _SKEW or any(_during(call, used) for call in known):
        return Finding("last use", wrong=False, said=f"{said}, from here")
    if known and used < min(call.at for call in known):
        said = f"{said}, before the first call on record here"
        return Finding("last use", wrong=False, said=said)
    return Finding(
        "last use",
        wrong=True,
        said=f"{said}, when no call on record here was made; it is {_moment(now.wall)} here",
        do=f"another program uses this key, or a clock is wrong: {_STOP}",
    )


def _during(call: CallRecord, used: int) -> bool:
    return call.at - _SKEW <= used <= call.at + (call.took or 0) + _SKEW


def _moment(wall: int) -> str:
    return f"{datetime.fromtimestamp(wall / SECOND, UTC):%Y-%m-%d %H:%M:%S}Z"


def conclude(
    state: KeyState, now: Now, info: KeyInfo, findings: Iterable[Finding]
) -> KeyState:
    """Raise the floor to the exchange's, if that is higher, and keep what is wrong as the key's diagnosis.

    A floor in a finer unit is not followed: the program that counts in it would soon be ahead again, and the key would
    have to stay that far ahead of its clock. No nonce of ours can be accepted until somebody acts, so the key is
    closed.
    """
    wrong = [finding for finding in findings if finding.wrong]
    diagnosis = "; ".join(f"{finding.said} ({finding.do})" for finding in wrong)
    if info.nonce > state.nonce:
        if finer_unit(info.nonce, state, now) or info.nonce >= state.greatest_nonce:
            return state._replace(closed=True, diagnosis=diagnosis)
        state = raise_floor(state, now, info.nonce)
    return state if state.closed else state._replace(diagnosis=diagnosis)
