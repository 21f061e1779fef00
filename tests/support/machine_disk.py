"""A store that several simulated processes share, and a power cut forgets: commits, and which of them are on the disk.

It does as the SQLite store does: a ceiling is committed with fsync before the nonce that needs it (I4), everything
else without. After a power cut the state is that of some commit from the last fsync on.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final, cast

from persistent_nonce.clock import Clock, Now
from persistent_nonce.nonces import ceiling
from persistent_nonce.rules import wake
from persistent_nonce.state import CallRecord, Change, KeyState
from persistent_nonce.stores.base import Epoch, Renewal, Store
from tests.support.clocks import StillClock
from tests.support.machine_runner import Killed

__all__ = ["POINTS", "Disk", "DiskSession", "DiskStore", "Volatile"]

#: Where in a transaction a process may end: before it, with the ceiling written, with it on the disk, with all of it
#: committed but the old epoch standing, after it.
POINTS: Final = (
    "before",
    "ceiling written",
    "ceiling on the disk",
    "committed",
    "after",
)


class Disk:
    """The commits of all stores on it; the last is what a reader sees.

    Attributes:
        epochs: of the keys' leases, in memory that all processes share: no crash of one touches it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ended: set[str] = set()
        self.sessions = itertools.count(1)
        self.epochs: list[int] = []
        self._places: dict[str, int] = {}  # of the keys in them
        self._shown: dict[str, tuple[int, bool]] = {}  # for what they last changed
        self._commits: list[tuple[dict[str, KeyState], dict[str, CallRecord]]]
        self._commits = [({}, {})]

    @property
    def rows(self) -> dict[str, KeyState]:
        """The states by key."""
        return self._commits[-1][0]

    @property
    def calls(self) -> dict[str, CallRecord]:
        """The call records by id."""
        return self._commits[-1][1]

    def commit(self, state: KeyState, records: Collection[CallRecord]) -> None:
        """Commit without fsync."""
        rows, calls = {**self.rows, state.key: state}, self.calls
        if records:
            calls = {**calls, **{record.id: record for record in records}}
        self._commits.append((rows, calls))

    def sync(self) -> None:
        """Have all commits on the disk."""
        del self._commits[:-1]

    def lose(self, share: float) -> int:
        """Cut the power: of the commits since the last fsync a `share` is lost, the latest; return how many."""
        lost = round(share * (len(self._commits) - 1))
        del self._commits[len(self._commits) - lost :]
        self.sync()
        self.epochs, self._places, self._shown = [], {}, {}
        return lost

    def show(self, state: KeyState) -> None:
        """Change the epoch of a key whose mark is not the one for which that was changed last."""
        if self._shown.get(state.key) != (state.nonce, state.closed):
            self._shown[state.key] = state.nonce, state.closed
            self.epochs[self.place(state.key)] += 1

    def place(self, key: str) -> int:
        """Return where the epoch of `key` is."""
        if key not in self._places:
            self._places[key] = len(self.epochs)
            self.epochs.append(0)
        return self._places[key]


class DiskSession:
    """A session that ends when the test says so."""

    def __init__(self, disk: Disk) -> None:
        self.name = f"0-0-0-{next(disk.sessions):08x}"
        self.live: set[str] = set()
        self.callers: set[tuple[str, int, int]] = set()
        self._disk = disk
        self._ids = itertools.count(1)

    def new_id(self) -> str:
        """Return an id that no other call has."""
        return f"{self.name}:{next(self._ids)}"

    def dead(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the sessions `names` that have ended."""
        return frozenset(names) & self._disk.ended


class DiskStore:
    """What one simulated process has of the disk.

    Attributes:
        dies_at: one of `POINTS`, where the process ends in its next transaction.
    """

    def __init__(self, disk: Disk) -> None:
        self.clock = disk.clock
        self.dies_at: str | None = None
        self.pending: deque[tuple[str, Change]] = deque()
        self._disk = disk
        self._session: DiskSession | None = None

    def now(self) -> Now:
        """Return the time as a change is given it."""
        return Now(self.clock.wall(), self.clock.mono(), self.clock.boot() or "")

    def read(self, key: str) -> KeyState:
        """Return the state of `key`."""
        return self._disk.rows.get(key) or KeyState(key)

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Apply `change` to the state of `key` and return what was stored."""
        try:
            return self._transact(key, change, durable=durable)
        finally:
            if self.dies_at is None:
                self.drain()

    def lease(self, key: str, change: Renewal) -> tuple[KeyState, Epoch | None]:
        """Do as `update`, and return the key's epoch too."""
        state, disk = self._transact(key, change, durable=False), self._disk
        if not change.block:
            return state, None
        at = disk.place(key)
        return state, Epoch(disk.epochs, at, disk.epochs[at])

    def drain(self) -> None:
        """Do what is pending."""
        while self.pending:
            key, change = self.pending.popleft()
            self._transact(key, change, durable=False)

    def _transact(self, key: str, change: Change, *, durable: bool) -> KeyState:
        disk, now = self._disk, self.now()
        old = self.read(key)
        self._reach("before")
        disk.show(old)  # whoever committed it may have been killed before
        woken, records = (old, ()) if old.boot == now.boot else wake(old, now)
        state, more = change(woken, now)
        # The pace of a key is on the disk before it is relied on (I6): a wake fills the counter by it.
        durable = durable or (state.every, state.burst) != (woken.every, woken.burst)
        if state.nonce != woken.nonce and state.nonce > state.synced:
            top = ceiling(state)
            # `seen` and `offset` go with it: the ceiling lies within the bound that they make (I10).
            below = woken._replace(
                unit=state.unit,
                seen=state.seen,
                offset=state.offset,
                ceiling=top,
                synced=0,
            )
            disk.commit(below, records)
            self._reach("ceiling written")
            disk.sync()
            self._reach("ceiling on the disk")
            state, records = state._replace(ceiling=top, synced=top), ()
        if state != old or records or more:
            disk.commit(state, (*records, *more))
        if durable:
            disk.sync()
        self._reach("committed")
        disk.show(state)
        self._reach("after")
        return state

    def _reach(self, point: str) -> None:
        if self.dies_at == point:
            raise Killed

    def later(self, key: str, change: Change) -> None:
        """Apply `change` at the next update, or when `drain` is called."""
        self.pending.append((key, change))

    def session(self) -> DiskSession:
        """Return the session of this process, begun at the first call."""
        if self._session is None:
            self._session = DiskSession(self._disk)
        return self._session

    def known_session(self) -> DiskSession | None:
        """Return the session of this process, if it has begun."""
        return self._session

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""
        return sorted(self._disk.rows)

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records."""
        found = [c for c in self._disk.calls.values() if key in (None, c.key)]
        return found[:limit]

    def close(self) -> None:
        """Do what is pending and end the session."""
        self.drain()
        self.end()

    def end(self) -> None:
        """End the session, as the kernel does when the process is gone."""
        if self._session is not None:
            self._disk.ended.add(self._session.name)


class Volatile:
    """A simulated disk, and the stores on it."""

    def __init__(self) -> None:
        self.disk: Disk | None = None

    def open(self, clock: StillClock) -> Store:
        """Open the store of one more process."""
        if self.disk is None:
            self.disk = Disk(clock)
        return DiskStore(self.disk)

    def end(self, store: Store) -> None:
        """Do what a program does at its end."""
        store.close()

    def crash(self, store: Store) -> None:
        """End the session."""
        cast("DiskStore", store).end()

    def arm(self, store: Store, point: int) -> None:
        """Let the process of `store` end in its next transaction."""
        cast("DiskStore", store).dies_at = POINTS[point % len(POINTS)]

    def later(self, store: Store, key: str, change: Change) -> Callable[[], None]:
        """Keep `change`, and return what makes it."""
        store.later(key, change)
        return cast("DiskStore", store).drain

    def waiting(self, store: Store) -> Iterable[tuple[str, Change]]:
        """Return the changes that wait to be made later."""
        return cast("DiskStore", store).pending

    def close(self) -> None:
        """Give back nothing: there is nothing."""
