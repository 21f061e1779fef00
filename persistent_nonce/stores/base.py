"""What a store must do, and all that the layers above may ask of one.

The contract, which the conformance suite holds every store to:

* `update` is atomic over all processes of the store: it reads the newest state, wakes it if it was written in another
  boot, applies `change`, and stores the result with its call records, all or nothing. The time given to `change`
  is read after the store has been locked. If `change` raises, nothing is stored and the error passes through.
* A nonce above the state's `synced` leaves only after a ceiling above it is on the disk (I4). With
  `durable=True` the whole result is on the disk when `update` returns.
* If the state cannot be locked, read, trusted or written, a StoreError is raised (I9).
* Finding a dead session is final. A session is dead once its process is gone, however it ended.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from persistent_nonce.clock import Clock, Now
from persistent_nonce.state import CallRecord, Change, KeyState

__all__ = ["Session", "Store"]


class Session(Protocol):
    """A process's proof of life: as long as it lives, no other process finds it dead."""

    @property
    def name(self) -> str:
        """The session's name: pid, start time, pid namespace, and something random."""

    @property
    def live(self) -> set[str]:
        """The ids of this process's calls, waiting or running; others of its name are left-overs."""

    @property
    def callers(self) -> set[tuple[str, int, int]]:
        """Who has, or waits for, a call: key, thread and task."""

    def new_id(self) -> str:
        """Return an id that no other call has: the session's name and a counter."""

    def dead(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the sessions `names` that have ended."""


class Store(Protocol):
    """Where the states of keys are kept, for all processes that use them."""

    @property
    def clock(self) -> Clock:
        """Where this store reads the time."""

    def now(self) -> Now:
        """Return the time as `update` would give it to a change."""

    def read(self, key: str) -> KeyState:
        """Return the state of `key` without a lock; a key never written to is new.

        Raises:
            StoreError: it cannot be read or trusted.
        """

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Apply the pure function `change` to the state of `key` and return what was stored."""

    def later(self, key: str, change: Change) -> None:
        """Apply `change` soon, from a place that may not wait: a finalizer, or after `update` failed."""

    def session(self) -> Session:
        """Return this process's session, begun at the first call."""

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records, newest first."""

    def close(self) -> None:
        """Give back everything held; closing twice is fine."""
