"""Time as an argument: the readings that every rule takes.

The wall clock makes nonces and dates back-offs, which must survive a reboot. Everything that is waited for
within one boot is kept on CLOCK_MONOTONIC, which all processes of a kernel share and no clock step can touch.
"""

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

__all__ = [
    "SECOND",
    "SYSTEM_CLOCK",
    "Clock",
    "Now",
    "SystemClock",
    "namespace_offset",
    "nanoseconds",
]

#: Nanoseconds in a second.
SECOND: Final = 1_000_000_000

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

#: The time namespace that the machine began with, whose clocks nothing shifts (the number is the kernel's own).
_FIRST_NAMESPACE: Final = "time:[4026531834]"


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


def namespace_offset(clock: str) -> int:
    """Return the nanoseconds by which a time namespace sets the clock `clock` ahead (time_namespaces(7))."""
    try:
        if os.readlink("/proc/self/ns/time") == _FIRST_NAMESPACE:
            return 0
        # Those of the children, which are this process's own as it was born into the namespace.
        with open("/proc/self/timens_offsets", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    offsets = {name: (int(seconds), int(rest)) for name, seconds, rest in lines}
    seconds, rest = offsets.get(clock, (0, 0))
    return seconds * SECOND + rest


def _monotonic() -> Callable[[], int]:
    """Return how CLOCK_MONOTONIC is read: all processes of the kernel have to read the same time (I5)."""
    ahead = namespace_offset("monotonic")
    return (lambda: time.monotonic_ns() - ahead) if ahead else time.monotonic_ns


class SystemClock:
    """The clocks of this machine."""

    scale: Final = 1.0

    # CLOCK_REALTIME and CLOCK_MONOTONIC (system-wide on Linux and macOS), without a call in between.
    wall = staticmethod(time.time_ns)
    mono = staticmethod(_monotonic())

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
