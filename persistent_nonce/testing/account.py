"""What the exchange keeps of one API key, with the rules that need no other key."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from persistent_nonce.clock import SECOND, nanoseconds
from persistent_nonce.kraken import LOCKOUT, Tier
from persistent_nonce.testing.orders import Book

__all__ = ["Account"]

#: Failures count together towards a lockout when they lie within this many seconds.
FAILURE_PERIOD: Final = 60.0


@dataclass(slots=True, eq=False)
class Account:
    """One API key and what it did; times are nanoseconds of the monotonic clock."""

    key: str
    secret: str = field(repr=False)
    tier: Tier
    nonce_window: int
    counts_itself: bool  # GetApiKeyInfo tells of its own call
    book: Book
    counted_at: int
    counter: float = 0.0
    floor: int = 0  # the greatest nonce accepted
    used: set[int] = field(default_factory=set)  # accepted ones within the window
    failures: deque[int] = field(default_factory=deque)
    locked_until: int = 0
    throttled_until: int = (
        0  # Unix time in seconds, since that is what clients are told
    )
    last_used: int = 0  # Unix time in seconds
    before: tuple[int, int] = (0, 0)  # floor and last_used before the last call
    max_in_flight: int = 0

    def charge(self, cost: int, now: int) -> bool:
        """Count a call, failed or not, and tell whether it is within the tier."""
        if not cost:
            return True
        drained = (now - self.counted_at) / SECOND * self.tier.decay
        self.counted_at = now
        before = max(0.0, self.counter - drained)
        # Refused calls count once, so that a client that stops hammering is soon back.
        self.counter = max(before, min(before + cost, self.tier.maximum + cost))
        return before + cost <= self.tier.maximum

    def is_fresh(self, nonce: int, *, reuse: bool) -> bool:
        """Tell whether a nonce is acceptable: above the floor, or within the window.

        `reuse` accepts a used one again within the window.
        """
        if nonce > self.floor:
            return True
        return nonce > self.floor - self.nonce_window and (
            reuse or nonce not in self.used
        )

    def known(self) -> tuple[int, int]:
        """Return the floor and the time of the last use, as the last call is told."""
        return (self.floor, self.last_used) if self.counts_itself else self.before

    def accept(self, nonce: int) -> None:
        """Take note of an accepted nonce; the floor never falls."""
        self.before = self.floor, self.last_used
        self.floor = max(self.floor, nonce)
        self.used.add(nonce)
        lowest = self.floor - self.nonce_window
        self.used = {used for used in self.used if used > lowest}

    def fail(self, now: int, *, lockout_after: int) -> None:
        """Count a failure, and lock the key out after too many in a short time."""
        self.failures.append(now)
        while self.failures[0] < now - nanoseconds(FAILURE_PERIOD):
            self.failures.popleft()
        if len(self.failures) >= lockout_after:
            self.lock_out(now)

    def lock_out(self, now: int) -> None:
        """Begin the lockout, or begin it anew."""
        self.failures.clear()
        self.locked_until = now + nanoseconds(LOCKOUT)

    def is_locked_out(self, now: int) -> bool:
        """Tell whether a lockout holds; asking while it does begins it anew."""
        if now >= self.locked_until:
            return False
        self.lock_out(now)
        return True
