"""Calls of a crowd that learn of their turn too late: none runs that has left, or was overtaken."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore, rules
from persistent_nonce.room import Room, _rooms
from persistent_nonce.steps import arun, do
from tests.support import databases
from tests.support.crowds import passes
from tests.support.processes import GUARD
from tests.support.workers import KEY

path, store = databases.path, databases.store


class Late(SQLiteStore):
    """A store in which a transaction of two calls waits, with its lock still to be had, until it is let go on."""

    def __init__(self, path: Path) -> None:
        self.may, self.done = threading.Event(), threading.Event()
        super().__init__(path, timeout=60)

    def update(self, key: str, change: Any, *, durable: bool = False) -> Any:
        """Do it, or let the other one go first; who takes its place back learns of that after it."""
        if len(getattr(change, "_calls", ())) == 2:
            assert self.may.wait(GUARD)
            try:
                return super().update(key, change, durable=durable)
            finally:
                self.done.set()
        state = super().update(key, change, durable=durable)
        if getattr(change, "func", None) is rules.leave and not self.done.is_set():
            self.may.set()
            assert self.done.wait(GUARD)
        return state


class Busy:
    """The threads of a loop, of which all but one or none are taken by calls of other keys at a slow store."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self._taken: list[asyncio.Task[None]] = []

    async def take(self, count: int) -> None:
        """Take so many, from now until `free` is set."""

        async def one() -> None:
            await do(lambda: self.free.wait(GUARD))

        for _ in range(count):
            self._taken.append(asyncio.create_task(arun(one())))
        await asyncio.sleep(0.1)  # until each has its thread, or stands in line

    async def end(self) -> None:
        """Give all back."""
        self.free.set()
        await asyncio.gather(*self._taken)


async def second(store: SQLiteStore, behind: Busy, call: Any, count: int) -> Any:
    """Start a call that has its session, and stands behind `count` others for the thread that asks for its turn."""
    begun, known, session = threading.Event(), threading.Event(), store.session

    def slow() -> Any:
        begun.set()
        assert known.wait(GUARD)
        return session()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "session", slow)
        patch.setattr(store, "known_session", lambda: None)
        task = asyncio.create_task(call)
        while not begun.is_set():  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.01)
        await behind.take(count)
        known.set()
        while len(session().live) < 2:  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.01)
    await asking(2)
    return task


async def crowded(gate: CallGate) -> tuple[asyncio.Task[None], Busy, Busy]:
    """Return a task that asks for its turn, who takes all other threads but one, and who may take that."""
    first, others = asyncio.create_task(passes(gate)), Busy()
    await asking(1)
    await others.take(6)
    return first, others, Busy()


async def asking(count: int) -> None:
    """Wait until so many ask for their turn; an error may keep another test's room, in which nobody asks."""
    while sum(len(room._asking) for room in _rooms.values()) != count:  # noqa: ASYNC110 - set in threads
        await asyncio.sleep(0.01)


@pytest.fixture
def serving_late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have no thread serve a room before this is set."""
    may, serve = threading.Event(), Room.serve

    def late(room: Room, guest: Any) -> Any:
        assert may.wait(GUARD)
        return serve(room, guest)

    monkeypatch.setattr(Room, "serve", late)
    return may


def test_a_call_that_was_cancelled_twice(
    tmp_path: Path, serving_late: threading.Event
) -> None:
    """A call that left while another's thread had taken it up stands nowhere, and runs nowhere (I5, I8; A19)."""

    async def main(store: Late) -> None:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        first, others, last = await crowded(gate)

        async def urgent() -> None:
            async with gate.call("CancelOrder", priority=5):
                pytest.fail("it was cancelled")

        task = await second(store, last, urgent(), 1)
        serving_late.set()
        await asking(0)  # until the first one's thread has both
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0.1)
        await last.end()
        await asyncio.gather(task, return_exceptions=True)
        state = store.read(gate.key)
        calls = [*state.queue, state.running]
        assert "CancelOrder" not in [call.method for call in calls if call is not None]
        await others.end()
        await first
        assert [call.outcome for call in store.calls()] == ["ok"]

    with Late(tmp_path / "nonces.db") as store:
        asyncio.run(main(store))


def test_a_turn_that_is_learned_of_too_late(
    store: SQLiteStore, tmp_path: Path, serving_late: threading.Event
) -> None:
    """A call that was overtaken before it learned of its turn has no body (I5)."""
    bodies: list[str] = []

    async def main(other: SQLiteStore) -> object:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD, hold_timeout=0.5)
        first, others, last = await crowded(gate)

        async def urgent() -> None:
            async with gate.call("CancelOrder", priority=5):
                bodies.append("late")

        task = await second(store, last, urgent(), 2)
        serving_late.set()
        while other.read(gate.key).running is None:  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.01)
        theirs = CallGate(other, KEY, min_interval=0.0, timeout=GUARD)
        with theirs.call("AddOrder", priority=9):  # all threads of the loop are taken
            bodies.append("theirs")
            await others.end()
            await last.end()
            ends: list[object] = await asyncio.gather(task, return_exceptions=True)
            bodies.append("over")
        await first
        return ends[0]

    with SQLiteStore(tmp_path / "nonces.db") as other:
        end = asyncio.run(main(other))
    assert isinstance(end, GateTimeoutError), end
    assert bodies == ["theirs", "over"]
