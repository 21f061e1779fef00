"""A clock that runs fast, and alike in every process of the machine."""

from __future__ import annotations

import time
from typing import Final

from persistent_nonce.clock import SYSTEM_CLOCK
from persistent_nonce.errors import ConfigurationError

__all__ = ["ScaledClock"]


class ScaledClock:
    """A clock `scale` times as fast as the machine's own.

    It keeps no state: both readings are computed from the machine's clocks alone, so
    that a store and a simulator in different processes agree without talking to each
    other. A whole number keeps the arithmetic exact.

    The wall clock comes out ahead of the true one by `scale - 1` times the machine's
    uptime; within 292 years of 1970 nonces in nanoseconds still fit.

    Args:
        scale: seconds of this clock in one second of real time, 1 or more.
    """

    def __init__(self, scale: int) -> None:
        if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
            raise ConfigurationError("scale must be a whole number, 1 or more")
        self.scale: Final = scale

    def __repr__(self) -> str:
        return f"ScaledClock({self.scale})"

    def mono(self) -> int:
        """Return CLOCK_MONOTONIC in nanoseconds, times `scale`."""
        return time.monotonic_ns() * self.scale

    def wall(self) -> int:
        """Return nanoseconds since 1970, advancing `scale` times as fast."""
        mono = time.monotonic_ns()
        return time.time_ns() - mono + mono * self.scale

    def boot(self) -> str | None:
        """Return the identity of this boot, as the machine tells it."""
        return SYSTEM_CLOCK.boot()
