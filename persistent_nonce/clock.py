"""Time as an argument: the readings that every rule takes.

The wall clock makes nonces and dates back-offs, which must survive a reboot. Everything that is waited for
within one boot is kept on CLOCK_MONOTONIC, which all processes of a kernel share and no clock step can touch.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple, Protocol

__all__ = ["SECOND", "SYSTEM_CLOCK", "Clock", "Now", "SystemClock", "nanoseconds"]

#: Nanoseconds in a second.
SECOND: Final = 1_000_000_000

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


class Now(NamedTuple):
    """One reading of the clock: `wall` and `mono` in nanoseconds, `boot` names the boot that `mono` counts from."""

    wall: int
    mono: int
    boot: str


class Clock(Protocol):
    """Where a store reads the time; a test gives its own."""

    @property
    def scale(self) -> float:
        """Seconds of this clock in one second of real time: 1 but for a simulation."""

    def wall(self) -> int:
        """Return nanoseconds since 1970."""

    def mono(self) -> int:
        """Return nanoseconds since some moment of this boot, never stepping."""

    def boot(self) -> str | None:
        """Return the identity of this boot, or None where the system does not tell."""


class SystemClock:
    """The clocks of this machine."""

    scale: Final = 1.0

    # CLOCK_REALTIME and CLOCK_MONOTONIC (system-wide on Linux and macOS), without a call in between.
    wall = staticmethod(time.time_ns)
    mono = staticmethod(time.monotonic_ns)

    def boot(self) -> str | None:
        """Return Linux's boot id (random(4)), or None elsewhere."""
        try:
            with open(_BOOT_ID, encoding="ascii") as file:
                return file.read().strip() or None
        except OSError:
            return None


#: The clock of a store that was given none.
SYSTEM_CLOCK: Final = SystemClock()


def nanoseconds(seconds: float) -> int:
    """Return `seconds` (the public unit of time) as nanoseconds (the stored one)."""
    return round(seconds * SECOND)
