"""A simulated process's store: each change that it stores is entered into the books."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from persistent_nonce.clock import Now
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.state import CallRecord, Change, Changed, KeyState
from persistent_nonce.stores.base import Epoch, Leasing, Renewal, Session, Store
from tests.support.clocks import StillClock
from tests.support.machine_ledger import Caller, Ledger
from tests.support.machine_runner import Killed

__all__ = ["Handle", "Place"]

T = TypeVar("T")


class Place(Protocol):
    """Where the processes' stores are, and what is outside of their contract."""

    def open(self, clock: StillClock) -> Store:
        """Open the store of one more process."""

    def crash(self, store: Store) -> None:
        """Do what the kernel does when the process of `store` is gone."""

    def end(self, store: Store) -> None:
        """Do what a program does at its end, and the kernel after it."""

    def arm(self, store: Store, point: int) -> None:
        """Let the process of `store` end at a point of its next transaction."""

    def later(self, store: Store, key: str, change: Change) -> Callable[[], None]:
        """Do as `store.later` would, but for its thread: return what that would do."""

    def waiting(self, store: Store) -> Iterable[tuple[str, Change]]:
        """Return the changes that wait to be made later."""

    def close(self) -> None:
        """Give back everything."""


class Watched:
    """A change that remembers how it went the last time."""

    def __init__(self, key: str, change: Change, seen: list[Watched]) -> None:
        self.key = key
        self.before = self.after = KeyState(key)
        self.now = Now(0, 0, "")
        self._change = change
        self._seen = seen

    @property
    def block(self) -> bool:
        """Whether it took a block of nonces."""
        return bool(getattr(self._change, "block", False))

    def __call__(self, state: KeyState, now: Now) -> Changed:
        if self in self._seen:
            self._seen.remove(self)
        self.before, self.now = state, now
        changed = self._change(state, now)
        self.after = changed.state
        self._seen.append(self)
        return changed


class Observer(Protocol):
    """Who keeps the books."""

    place: Place
    ledgers: dict[str, Ledger]

    @property
    def actor(self) -> Caller | None:
        """Whose call is being made."""

    def ends_later(self, store: Handle, work: Callable[[], None]) -> None:
        """Begin a thread that does `work`."""

    def give_way(self) -> None:
        """Let others go on in the middle of a step."""


class Looked(Sequence[int]):
    """Epochs at which nobody looks undisturbed: others may come just before it, and between it and what it is for."""

    def __init__(self, words: Sequence[int], give_way: Callable[[], None]) -> None:
        self._words = words
        self._give_way = give_way

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, at: Any) -> Any:
        self._give_way()
        word = self._words[at]
        self._give_way()
        return word


class Handle:
    """A process's store, under the eyes of the books; of no use once the process is gone.

    Attributes:
        name: of its session, once it has one.
    """

    def __init__(self, world: Observer, inner: Store) -> None:
        self.clock = inner.clock
        self.inner = inner
        self.gone = False
        self.name = ""
        self._world = world
        self._seen: list[Watched] = []

    def now(self) -> Now:
        """Return the time as a change is given it."""
        return self.inner.now()

    def read(self, key: str) -> KeyState:
        """Return the state of `key`."""
        return self._living().read(key)

    def session(self) -> Session:
        """Return this process's session."""
        session = self._living().session()
        self.name = session.name
        return session

    def known_session(self) -> Session | None:
        """Return this process's session, if it has begun."""
        return self._living().known_session()

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Apply `change`, and have the books look at it."""
        own, living = Watched(key, change, self._seen), self._living()
        return self._observed(lambda: living.update(key, own, durable=durable), own)

    def lease(self, key: str, change: Renewal) -> tuple[KeyState, Epoch | None]:
        """Apply `change`, and return an epoch at which a look takes time."""
        own, living = Watched(key, change, self._seen), cast("Leasing", self._living())
        state, epoch = self._observed(lambda: living.lease(key, own), own)
        if epoch is None:
            return state, None
        words = Looked(epoch.words, self._world.give_way)
        return state, epoch._replace(words=words)

    def later(self, key: str, change: Change) -> None:
        """Have `change` applied by a thread that the test lets go on, or with the next update."""
        if self.gone:
            return
        watched = Watched(key, change, self._seen)
        work = self._world.place.later(self.inner, key, watched)
        self._world.ends_later(self, partial(self._observed, work, None))

    def _living(self) -> Store:
        if self.gone:
            raise Killed
        return self.inner

    def _observed(self, work: Callable[[], T], own: Watched | None) -> T:
        """Do what stores changes, and enter into the books which of them were."""
        self._seen.clear()
        try:
            result = work()
        except Killed:
            actor = self._world.actor
            assert actor is not None, "a kill strikes who makes a call"
            for key in {watched.key for watched in self._seen}:
                mine = [(w.before, w.after) for w in self._seen if w.key == key]
                self._world.ledgers[key].perhaps(actor, mine)
            raise
        except Exception as error:
            self._enter(own, stored=False)
            if isinstance(error, NonceRangeError) and own is not None:
                self._world.ledgers[own.key].check_range(own.before, own.now)
            raise
        self._enter(own, stored=True)
        return result

    def _enter(self, own: Watched | None, *, stored: bool) -> None:
        undone = [change for _, change in self._world.place.waiting(self.inner)]
        for watched in self._seen:
            if watched in undone or (watched is own and not stored):
                continue
            actor = self._world.actor if watched is own else None
            self._world.ledgers[watched.key].committed(
                actor, watched.before, watched.after, watched.now
            )

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""
        return self._living().keys()

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records."""
        return self._living().calls(key, limit)

    def close(self) -> None:
        """Give back everything held, as at the end of a program."""
        self._observed(partial(self._world.place.end, self._living()), None)
