"""Builders of the values that the pure rules take: times, states, calls."""

from __future__ import annotations

from typing import Final

from persistent_nonce.clock import SECOND, Now, nanoseconds
from persistent_nonce.state import (
    CallRecord,
    KeyState,
    Outcome,
    Rate,
    Running,
    Waiting,
)

__all__ = [
    "BOOT",
    "HOLD",
    "KEY",
    "WALL",
    "at",
    "fresh",
    "marked",
    "recorded",
    "running",
    "waiting",
]

#: The fingerprint of the key of the tests.
KEY: Final = "0123456789abcdef"

#: The boot in which most tests take place.
BOOT: Final = "boot-1"

#: A day in 2026 by the wall clock, in nanoseconds.
WALL: Final = 1_780_000_000 * SECOND

#: How long a call of the tests may last, in nanoseconds.
HOLD: Final = 300 * SECOND

_MONO: Final = 1_000 * SECOND


def at(seconds: float = 0.0, *, step: float = 0.0, boot: str = BOOT) -> Now:
    """Return the time `seconds` after the tests' beginning, by a wall clock that was set `step` seconds ahead."""
    elapsed = nanoseconds(seconds)
    return Now(WALL + elapsed + nanoseconds(step), _MONO + elapsed, boot)


def fresh(
    unit: str | None = None, *, rate: Rate | None = None, interval: float | None = None
) -> KeyState:
    """Return the state of a key that was never used, in the boot of the tests."""
    return KeyState(
        KEY,
        unit=unit,
        boot=BOOT,
        min_interval=None if interval is None else nanoseconds(interval),
        every=None if rate is None else nanoseconds(rate.every),
        burst=0 if rate is None else rate.burst,
    )


def marked(
    nonce: int, *, key: str = KEY, unit: str = "ns", ceiling: int = 0, boot: str = ""
) -> KeyState:
    """Return the state of a key that has a mark beside the database."""
    return KeyState(key, unit=unit, nonce=nonce, ceiling=ceiling, boot=boot)


def waiting(
    id: str = "a", *, session: str = "S", cost: int = 1, priority: int = 0
) -> Waiting:
    """Return a call that wants to stand in the queue."""
    return Waiting(
        id=id,
        session=session,
        method="Balance",
        cost=cost,
        priority=priority,
        since=at().mono,
    )


def running(
    id: str = "a",
    *,
    session: str = "S",
    cost: int = 1,
    nonce: int = 1,
    start: float = 0.0,
) -> Running:
    """Return a call that began `start` seconds after the tests' beginning."""
    now = at(start)
    return Running(
        id=id,
        session=session,
        method="Balance",
        cost=cost,
        nonce=nonce,
        at=now.wall,
        since=now.mono,
        until=now.mono + HOLD,
        waited=0,
    )


def recorded(
    id: str = "a",
    *,
    nonce: int = 1,
    now: Now | None = None,
    took: float | None = 0.0,
    outcome: Outcome = "unknown",
    reference: str = "cl_ord_id=A1",
    method: str = "AddOrder",
    serial: int = 0,
) -> CallRecord:
    """Return the record of a call that began at `now` and took so many seconds, None if nobody saw its end."""
    now = now or at()
    return CallRecord(
        id=id,
        key=KEY,
        session="S",
        method=method,
        cost=0,
        nonce=nonce,
        at=now.wall,
        waited=0,
        took=None if took is None else nanoseconds(took),
        outcome=outcome,
        serial=serial,
        since=now.mono,
        boot=now.boot,
        reference=reference,
    )
