"""A store for tests: the same contract within one process, nothing kept."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection

from persistent_nonce.clock import SYSTEM_CLOCK, Clock, Now
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.nonces import ceiling
from persistent_nonce.records import in_doubt
from persistent_nonce.rules import wake
from persistent_nonce.state import CallRecord, Change, KeyState
from persistent_nonce.stores.pending import Pending
from persistent_nonce.stores.rows import KEPT_CALLS

__all__ = ["MemorySession", "MemoryStore"]


class MemorySession:
    """A session that ends when a test says so."""

    _counter = itertools.count(1)

    def __init__(self, store: MemoryStore) -> None:
        self.name = f"0-0-0-{next(self._counter):08x}"
        self.live: set[str] = set()
        self.callers: set[tuple[str, int, int]] = set()
        self._ids = itertools.count(1)
        self._store = store

    def new_id(self) -> str:
        """Return an id that no other call has."""
        return f"{self.name}:{next(self._ids)}"

    def dead(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the sessions `names` that have ended."""
        return frozenset(names) & self._store.ended

    def end(self) -> None:
        """Model the death of this session's process."""
        self._store.ended.add(self.name)


class MemoryStore:
    """A store in memory, shared by threads and by the simulated processes of a test.

    Args:
        clock: where the time is read.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.clock = clock
        self.ended: set[str] = set()
        self._mutex = threading.RLock()
        self._states: dict[str, KeyState] = {}
        self._calls: dict[str, CallRecord] = {}
        self._pending = Pending()
        self._session: MemorySession | None = None
        self._closed = False

    def now(self) -> Now:
        """Return the time as a change is given it."""
        return Now(self.clock.wall(), self.clock.mono(), self.clock.boot() or "memory")

    def read(self, key: str) -> KeyState:
        """Return the state of `key`; a key never written to is new."""
        self._check()
        return self._states.get(key) or KeyState(key)

    def update(
        self,
        key: str,
        change: Change,
        *,
        durable: bool = False,  # noqa: ARG002 - nothing here is
    ) -> KeyState:
        """Apply `change` to the state of `key` and return what was stored."""
        self._check()
        with self._mutex:
            try:
                return self._apply(key, change)
            finally:
                self._pending.drain(self._apply)

    def _apply(self, key: str, change: Change) -> KeyState:
        now, state = self.now(), self._states.get(key) or KeyState(key)
        records: tuple[CallRecord, ...] = ()
        if state.boot != now.boot:
            state, records = wake(state, now)
        before = state.nonce
        state, more = change(state, now)
        if state.nonce != before and state.nonce > state.synced:
            top = ceiling(state)
            state = state._replace(ceiling=top, synced=top)
        self._states[key] = state
        for record in (*records, *more):
            self._put(record)
        return state

    def _put(self, record: CallRecord) -> None:
        old = self._calls.get(record.id)
        is_open = old is None or in_doubt(old) or old.outcome == "in_flight"
        if in_doubt(record) and not is_open:
            return  # what is known of it is not put in doubt again
        serial = max(record.serial, old.serial if old else 0)
        self._calls[record.id] = record._replace(serial=serial)
        for other in [*self._calls.values()]:
            if other.key == record.key and 0 < other.serial <= serial - KEPT_CALLS:
                del self._calls[other.id]

    def later(self, key: str, change: Change) -> None:
        """Apply `change` at the next update."""
        self._pending.append((key, change))

    def session(self) -> MemorySession:
        """Return the session of this store's user, begun at the first call."""
        self._check()
        with self._mutex:
            if self._session is None or self._session.name in self.ended:
                self._session = MemorySession(self)
            return self._session

    def known_session(self) -> MemorySession | None:
        """Return the session of this store's user, if there is one."""
        known = None if self._closed else self._session
        return None if known is None or known.name in self.ended else known

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""
        self._check()
        return sorted(self._states)

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records, newest first."""
        self._check()
        found = [c for c in self._calls.values() if key in (None, c.key)]
        found.sort(key=lambda c: (c.at, c.nonce), reverse=True)
        return found[:limit]

    def close(self) -> None:
        """Refuse every further use."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailableError("the store is closed", "open a new one")
