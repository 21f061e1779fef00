"""The stored settings of a key: followed by who has no opinion, refused to who has another one."""

from __future__ import annotations

from typing import Final

from persistent_nonce.clock import Now, nanoseconds
from persistent_nonce.errors import ConfigurationError, UnitMismatchError
from persistent_nonce.state import UNITS, KeyState, Rate, Wanted

__all__ = ["configure", "set_tier"]

_NO_OPINION: Final = Wanted()[2:]

#: Settings that are compared as they are, and the option of set-tier that changes each.
_OPTIONS: Final = {
    "min_interval": "--min-interval SECONDS",
    "attempts": "--attempts N",
    "max_lead": "--max-lead SECONDS",
    "greatest": "--greatest N",
}


def configure(state: KeyState, wanted: Wanted) -> KeyState:
    """Store what nobody has said before, so that two programs cannot pace one key differently.

    Raises:
        UnitMismatchError: the key's nonces are in another unit.
        ConfigurationError: another setting contradicts the stored one.
    """
    if wanted.unit is not None and wanted.unit != state.unit:
        if state.unit is not None:
            raise _other_unit(state, wanted.unit)
        state = state._replace(unit=wanted.unit)
    if wanted.label is not None and wanted.label != state.label:
        state = state._replace(label=wanted.label)
    if wanted[2:] == _NO_OPINION:  # as of every nonce without a gate
        return state
    for name, option in _OPTIONS.items():
        value, stored = getattr(wanted, name), getattr(state, name)
        if value is None or value == stored:
            continue
        if stored is not None:
            raise _contradiction(state, name, option)
        state = state._replace(**{name: value})
    if wanted.default_unit is not None and state.unit is None:
        state = state._replace(unit=wanted.default_unit)
    rate = wanted.rate or (wanted.default_rate if state.every is None else None)
    return state if rate is None else _follow(state, rate)


def _follow(state: KeyState, rate: Rate) -> KeyState:
    every = nanoseconds(rate.every)
    if state.every is None:
        return state._replace(every=every, burst=rate.burst, tier=rate.tier)
    if (every, rate.burst) != (state.every, state.burst):
        name = f"rate (stored: {state.tier or state.rate})"
        raise _contradiction(state, name, "TIER")
    return state


def _other_unit(state: KeyState, unit: str) -> UnitMismatchError:
    finer = UNITS[unit] < state.tick
    return UnitMismatchError(
        f"key {state.key} counts in {state.unit}, not {unit}",
        "leave the unit out, "
        + (
            f"or change it for all with: persistent-nonce set-unit {state.key} {unit}"
            if finer
            else "since set-unit changes it to a finer one only"
        ),
    )


def _contradiction(state: KeyState, name: str, option: str) -> ConfigurationError:
    return ConfigurationError(
        f"key {state.key} is used with another {name}",
        "leave it out to follow the key's own, or change it for all processes with: "
        f"persistent-nonce set-tier {state.key} {option}",
    )


def set_tier(
    state: KeyState,
    now: Now,
    *,
    rate: Rate | None = None,
    min_interval: int | None = None,
    attempts: int | None = None,
    max_lead: int | None = None,
    greatest: int | None = None,
) -> KeyState:
    """Change the stored pacing of a key, for all its processes; what is None stays."""
    if rate is not None:
        every = nanoseconds(rate.every)
        level = max(0, state.tat - now.mono) / state.every if state.every else 0
        state = state._replace(
            every=every,
            burst=rate.burst,
            tier=rate.tier,
            tat=now.mono + round(level * every),  # what was counted stays counted
        )
    return state._replace(
        min_interval=state.min_interval if min_interval is None else min_interval,
        attempts=state.attempts if attempts is None else attempts,
        max_lead=state.max_lead if max_lead is None else max_lead,
        greatest=state.greatest if greatest is None else greatest,
        turn=None,  # whoever is next may start at another time now
    )
