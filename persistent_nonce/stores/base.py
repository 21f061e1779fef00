"""What a store must do, and all that the layers above may ask of one.

The contract, which the conformance suite holds every store to:

* `update` is atomic over all processes of the store: it reads the newest state, wakes it if it was written in another
  boot, applies `change`, and stores the result with its call records, all or nothing. The time given to `change`
  is read after the store has been locked. If `change` raises, nothing is stored and the error passes through.
* A nonce above the state's `synced` leaves only after a ceiling above it is on the disk (I4). With
  `durable=True` the whole result is on the disk when `update` returns.
* If the state cannot be locked, read, trusted or written, a StoreError is raised (I9).
* Finding a dead session is final. A session is dead once its process is gone, however it ended.

A store that can also lease says of each key whether anybody has changed its mark since a transaction:

* `lease` is `update`, with the key's epoch as that very transaction has left it, if the change took a block. Whatever
  changes the mark or the greatest nonce there may be, or closes the key, in any process, changes the epoch before its
  own `update` returns. The epoch of a store that was closed, or was inherited over fork, cannot be read: ValueError.
* Nobody uses an epoch longer than LEASE after the time that was given to the change. So a store whose epochs are kept
  in another place from now on waits so long before its next transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from persistent_nonce.clock import SECOND, Clock, Now
from persistent_nonce.state import CallRecord, Change, Changed, KeyState

__all__ = ["LEASE", "Epoch", "Leased", "Leasing", "Renewal", "Session", "Store", "Wake"]

#: Nanoseconds for which a block of nonces may be used: they stay near the clock.
LEASE: Final = SECOND // 100


class Epoch(NamedTuple):
    """Where to look whether a key's mark still stands where a transaction has left it, and what stood there then."""

    words: Sequence[int]  # shared by all processes
    at: int
    value: int


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

    def known_session(self) -> Session | None:
        """Return this process's session if it is there, without waiting for anything: on an event loop's thread."""

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records, newest first."""

    def close(self) -> None:
        """Give back everything held; closing twice is fine."""


#: How a state of another boot enters this one.
Wake: TypeAlias = Callable[[KeyState, Now], Changed]

#: A state, and its key's epoch if a block was taken.
Leased: TypeAlias = "tuple[KeyState, Epoch | None]"


class Renewal(Protocol):
    """A change that may take a block of nonces."""

    @property
    def block(self) -> bool:
        """Whether it did, when it was last made."""

    def __call__(self, state: KeyState, now: Now) -> Changed:
        """Return the new state."""


@runtime_checkable
class Leasing(Store, Protocol):
    """A store of which nonces can be taken in blocks."""

    def lease(self, key: str, change: Renewal) -> Leased:
        """Do as `update`, and return the key's epoch too, if `change` took a block."""
