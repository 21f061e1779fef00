"""Crowds of tasks at a gate: what is noted of them, and how long their loop stands still meanwhile.

A test module has the fixtures below by giving them its own names, as in `store, gate = crowds.store, crowds.gate`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import coroutine
from typing import Any, Final, TypeVar

import pytest
import uvloop

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.clock import Now
from persistent_nonce.state import Change, Changed, KeyState
from persistent_nonce.stores.sessions import FileSession
from tests.support.workers import KEY

__all__ = [
    "LOOPS",
    "RUN",
    "Heart",
    "NotingStore",
    "cancelled_at",
    "gate",
    "nothing_left",
    "passes",
    "queued",
    "store",
]

#: What runs a coroutine, by the name of its event loop.
RUN: Final[dict[str, Callable[[Coroutine[Any, Any, Any]], Any]]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}
LOOPS: Final = pytest.mark.parametrize("loop", RUN)

T = TypeVar("T")

#: Seconds between two beats.
_BEAT: Final = 0.005


class NotingStore(SQLiteStore):
    """A store that notes each call's ticket, its nonce once it has begun, and whether it was ever passed over.

    Attributes:
        on_loop: how often the store was asked on the thread of a running event loop, which then stands still.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.tickets: dict[str, int] = {}
        self.begun: dict[str, int] = {}
        self.late: set[str] = set()
        self.on_loop = 0
        super().__init__(*arguments, **options)

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Note what is new in the state."""
        self._note_thread()

        def noting(before: KeyState, now: Now) -> Changed:
            changed = change(
                before, now
            )  # under the lock, so that all is seen in order
            for call in reversed(changed.state.queue):
                if call.id in self.tickets:
                    break
                self.tickets[call.id] = call.ticket
            self.late.update(call.id for call in changed.state.queue if call.late)
            if (running := changed.state.running) is not None:
                self.tickets.setdefault(running.id, before.ticket + 1)
                self.begun[running.id] = running.nonce
            return changed

        return super().update(key, noting, durable=durable)

    def read(self, key: str) -> KeyState:
        """Note where."""
        self._note_thread()
        return super().read(key)

    def session(self) -> FileSession:
        """Note where."""
        self._note_thread()
        return super().session()

    def _note_thread(self) -> None:
        with suppress(RuntimeError):  # no loop runs here
            asyncio.get_running_loop()
            self.on_loop += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NotingStore]:
    """Return a store."""
    with NotingStore(tmp_path / "nonces.db", timeout=60) as opened:
        yield opened


@pytest.fixture
def gate(store: NotingStore) -> CallGate:
    """Return a gate without an interval."""
    return CallGate(store, KEY, min_interval=0.0, timeout=600, unit="ns")


class Heart:
    """A task that beats, and notes how late its loop lets it, and how many threads there are."""

    def __init__(self) -> None:
        self.latest = 0.0
        self.threads = 0

    async def beat(self) -> None:
        """Beat until it is cancelled."""
        while True:
            due = time.perf_counter() + _BEAT
            await asyncio.sleep(_BEAT)
            self.latest = max(self.latest, time.perf_counter() - due)
            self.threads = max(self.threads, threading.active_count())


async def passes(gate: CallGate) -> None:
    """Make a call."""
    async with gate.call("Balance"):
        pass


def nothing_left(store: SQLiteStore, gate: CallGate) -> bool:
    """Whether neither the shared state nor this process knows of a call."""
    state, session = store.read(gate.key), store.session()
    mine = session.live or session.callers
    return state.running is None and not state.queue and not mine


async def queued(store: SQLiteStore, gate: CallGate, count: int) -> None:
    """Wait until `count` calls stand in the queue, as all processes see it."""
    while len(store.read(gate.key).queue) < count:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)


@coroutine
def cancelled_at(number: int, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, int]:
    """Do `work`, and cancel the task that does it at the `number`-th await; return how many there were."""
    task, passed = asyncio.current_task(), 0
    assert task is not None
    resume, value = work.send, None
    with suppress(StopIteration):
        while True:
            waited_for = resume(value)
            passed += 1
            if passed == number:
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                value = yield waited_for
                resume = work.send
            except BaseException as error:  # noqa: BLE001 - the work's to handle
                resume, value = work.throw, error
    return passed
