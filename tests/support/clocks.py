"""A clock in a test's hands: it stands still until it is moved, and knows of reboots."""

from __future__ import annotations

import time

from persistent_nonce.clock import SECOND

__all__ = ["StillClock", "StillWall"]


class StillClock:
    """A clock that a test moves; `name` is its boot, None where a system does not tell."""

    scale = 1.0

    def __init__(
        self, *, wall: int = 1_700_000_000 * SECOND, name: str | None = "first boot"
    ) -> None:
        self.now = wall
        self.up = 1_000 * SECOND
        self.name = name

    def wall(self) -> int:
        """Return nanoseconds since 1970."""
        return self.now

    def mono(self) -> int:
        """Return nanoseconds since the boot."""
        return self.up

    def boot(self) -> str | None:
        """Return the name of this boot."""
        return self.name

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * SECOND)
        self.up += round(seconds * SECOND)


class StillWall(StillClock):
    """A wall clock that stands still while time goes by: it helps nobody to a greater nonce."""

    def mono(self) -> int:
        """Return nanoseconds since the boot."""
        return time.monotonic_ns()
