"""What processes are doing when they are killed, or when the system fails them; each work says how far it came."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final

import sqlite_utils.migrations  # noqa: F401 - a child that makes a database has it by now

from persistent_nonce import (
    CallGate,
    InvalidNonceError,
    NonceProvider,
    Recovery,
    SQLiteStore,
)
from persistent_nonce.clock import SECOND, SystemClock
from tests.support.killing import GUARD, forked
from tests.support.workers import KEY

__all__ = ["BEGIN", "HALF", "URGENT", "WORKS", "Frozen", "Still", "Tell", "Victim"]

#: Where the clocks begin, in ns since 1970.
BEGIN: Final = 1_700_000_000 * SECOND

#: From this priority on a call does not wait for the first back-off after a refused nonce.
URGENT: Final = 20

#: So many nonces of a burst, in ms, leave half of a block.
HALF: Final = 6

Tell = Callable[[str], None]


class Still(SystemClock):
    """The machine's clock, but for a wall clock that stands until it is moved, and a name of the boot if one is given.

    No nonce is new because time went by: one that regresses shows.
    """

    def __init__(self, wall: int, name: str = "") -> None:
        self._wall = wall
        self._name = name

    def wall(self) -> int:
        """Return nanoseconds since 1970."""
        return self._wall

    def boot(self) -> str | None:
        """Return the name of this boot."""
        return self._name or super().boot()

    def forward(self, length: int) -> None:
        """Move the wall clock by so many nanoseconds."""
        self._wall += length


class Frozen(Still):
    """A clock by which no time passes at all: a block of nonces is not void by its time, however slow the machine."""

    def __init__(self, wall: int) -> None:
        super().__init__(wall)
        self._mono = super().mono()

    def mono(self) -> int:
        """Return nanoseconds since the boot, always the same."""
        return self._mono


class Victim:
    """What a process that is to be killed works with.

    Args:
        path: the database.
        turn: how many victims there were before; each is given a later clock, and what else must be its own.
        doom: what it is to suffer while it is entered.
        tell: called with what was done.

    Attributes:
        opened: its store.
    """

    def __init__(
        self, path: Path, turn: int, doom: AbstractContextManager[None], tell: Tell
    ) -> None:
        self.path = path
        self.turn = turn
        self.doom = doom
        self.tell = tell
        self.clock = Still(BEGIN + 10 * SECOND * turn)
        self.opened: SQLiteStore | None = None

    def store(self) -> SQLiteStore:
        """Open the store."""
        self.opened = SQLiteStore(self.path, clock=self.clock, timeout=GUARD)
        return self.opened

    def draw(self, store: SQLiteStore) -> None:
        """Take a nonce."""
        self.tell(f"issued {NonceProvider(store, KEY).next()}")

    def exhaust(self, store: SQLiteStore) -> None:
        """Take all nonces up to the ceiling that is on the disk, so that the next one needs another."""
        provider = NonceProvider(store, KEY)
        provider.next()
        state = store.read(provider.key)
        if state.nonce < state.synced:
            provider.reserve(state.synced - state.nonce)
        self.tell(f"mark {max(state.nonce, state.synced)}")

    def gate(self, store: SQLiteStore) -> CallGate:
        """Return a gate without pace, at which a wait ends before the guard does."""
        return CallGate(store, KEY, min_interval=0.0, timeout=GUARD / 2)


# --- works: each prepares what it needs, and does what is interrupted under the doom


def opening(victim: Victim) -> None:
    """Make a database, take its first nonce, close it."""
    with victim.doom, victim.store() as store:
        victim.draw(store)


def plain(victim: Victim) -> None:
    """Take a nonce below the ceiling that is on the disk."""
    store = victim.store()
    NonceProvider(store, KEY).next()
    with victim.doom:
        victim.draw(store)


def ceiling(victim: Victim) -> None:
    """Take a nonce that needs a ceiling."""
    store = victim.store()
    victim.exhaust(store)
    with victim.doom:
        victim.draw(store)


def renewing(victim: Victim) -> None:
    """Use up a block of nonces, and take another."""
    victim.clock = Frozen(victim.clock.wall())
    store = victim.store()
    provider = NonceProvider(store, KEY)
    for _ in range(HALF):
        victim.tell(f"issued {provider.next()}")
    with victim.doom:
        for _ in range(2 * HALF):
            victim.tell(f"issued {provider.next()}")


def waking(victim: Victim) -> None:
    """Take the first nonce after a boot."""
    victim.clock = Still(BEGIN - 3600 * SECOND, f"boot {victim.turn}")
    store = victim.store()
    with victim.doom:
        victim.draw(store)


def floor(victim: Victim) -> None:
    """Raise the floor."""
    store = victim.store()
    provider = NonceProvider(store, KEY)
    mark = provider.next()
    with victim.doom:
        victim.tell(f"issued {provider.raise_floor(mark + 1_000)}")


def reserving(victim: Victim) -> None:
    """Reserve more nonces than the ceiling allows."""
    store = victim.store()
    victim.exhaust(store)
    with victim.doom:
        victim.tell(f"issued {NonceProvider(store, KEY).reserve(100)[-1]}")


def calling(victim: Victim, *, durable: bool = False) -> None:
    """Make a call."""
    store = victim.store()
    victim.exhaust(store)
    with victim.doom:
        with victim.gate(store).call("AddOrder", durable=durable) as call:
            victim.tell(f"body {call.nonce}")
            victim.tell(f"leaving {call.nonce}")
        victim.tell("left")


def calling_behind_the_dead(victim: Victim) -> None:
    """Make a call while one of a killed process is in flight, and another of it waits."""
    forked(lambda _: _die_in_calls(victim))
    store = victim.store()
    with victim.doom:
        with victim.gate(store).call("AddOrder") as call:
            victim.tell(f"body {call.nonce}")
            victim.tell(f"leaving {call.nonce}")
        victim.tell("left")


def _die_in_calls(victim: Victim) -> None:
    async def wait() -> None:
        async with gate.call("Balance"):
            pass

    async def both() -> None:
        async with gate.call("CancelOrder"):
            waits = asyncio.create_task(wait())
            while not store.read(gate.key).queue:  # noqa: ASYNC110 - what it waits for is in a file
                await asyncio.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
            await waits

    store = victim.store()
    gate = victim.gate(store)
    asyncio.run(both())


def task_calling(victim: Victim) -> None:
    """Make a call in a task."""

    async def call() -> None:
        async with victim.gate(store).call("AddOrder") as call:
            victim.tell(f"body {call.nonce}")
            victim.tell(f"leaving {call.nonce}")
        victim.tell("left")

    store = victim.store()
    with victim.doom:
        asyncio.run(call())


def refused(victim: Victim) -> None:
    """Make a call whose nonce is refused, so that the mark jumps and all back off."""
    store = victim.store()
    NonceProvider(store, KEY).next()
    gate = CallGate(
        store,
        KEY,
        min_interval=0.0,
        timeout=GUARD / 2,
        recovery=Recovery(jump=1, factor=1, attempts=10),
    )
    with victim.doom:
        try:
            with gate.call("AddOrder", priority=URGENT) as call:
                victim.tell(f"body {call.nonce}")
                victim.tell(f"leaving {call.nonce}")
                raise InvalidNonceError
        except InvalidNonceError:
            victim.tell("refused")


def closing_down(victim: Victim) -> None:
    """Close a store whose session has made a call."""
    store = victim.store()
    with victim.gate(store).call("Balance"):
        pass
    with victim.doom:
        store.close()


#: Each work by its name.
WORKS: Final[dict[str, Callable[[Victim], None]]] = {
    "opening": opening,
    "plain": plain,
    "ceiling": ceiling,
    "renewing": renewing,
    "waking": waking,
    "floor": floor,
    "reserving": reserving,
    "calling": calling,
    "durable": partial(calling, durable=True),
    "behind": calling_behind_the_dead,
    "task": task_calling,
    "refused": refused,
    "closing": closing_down,
}
