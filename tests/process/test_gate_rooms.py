"""What befell tasks that wait together, and was found by breaking it: each test fails without its repair."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from weakref import ref

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore, steps
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.room import Room, _rooms
from persistent_nonce.state import Changed
from persistent_nonce.steps import arun, do
from persistent_nonce.stores.memory import MemoryStore
from tests.support.callers import until
from tests.support.crowds import nothing_left, queued
from tests.support.processes import GUARD, Children
from tests.support.workers import KEY

#: How many calls stand ahead, so that who is behind them looks seldom.
AHEAD: Final = 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """Return a store."""
    with SQLiteStore(tmp_path / "nonces.db", timeout=60) as opened:
        yield opened


@pytest.fixture
def gate(store: SQLiteStore) -> CallGate:
    """Return a gate without an interval; who is found dead is found so long before its time is up."""
    return CallGate(store, KEY, min_interval=0.0, timeout=2 * GUARD)


async def passes(gate: CallGate) -> None:
    """Make a call."""
    async with gate.call("Balance"):
        pass


def hold(path: str) -> None:
    """Make a call that does not end, with others that wait behind it."""

    async def main() -> None:
        with SQLiteStore(path) as store:
            gate = CallGate(store, KEY, min_interval=0.0, timeout=10 * GUARD)

            async def one() -> None:
                async with gate.call("AddOrder"):
                    await asyncio.sleep(10 * GUARD)

            await asyncio.gather(*(one() for _ in range(1 + AHEAD)))

    asyncio.run(main())


def test_arrivals_hide_no_death(
    store: SQLiteStore, gate: CallGate, tmp_path: Path
) -> None:
    """Tasks that keep coming do not keep those that wait from seeing that the process ahead was killed (I3, I7; A2)."""
    store.session()

    async def main(child: Any) -> int:
        first = asyncio.create_task(passes(gate))
        await queued(store, gate, AHEAD + 1)
        await asyncio.sleep(0.5)  # until it has found all of them alive
        child.kill()
        crowd = [first]
        deadline = time.monotonic() + GUARD
        while not first.done():
            assert time.monotonic() < deadline, "the dead are still ahead"
            crowd.append(asyncio.create_task(passes(gate)))
            await asyncio.sleep(0.03)
        await asyncio.gather(*crowd)
        return len(crowd)

    with Children() as children:
        child = children.call(hold, tmp_path / "nonces.db")
        until(lambda: len(store.read(gate.key).queue) == AHEAD, "the others to wait")
        assert asyncio.run(main(child)) > 1


@contextmanager
def restless() -> Iterator[None]:
    """Have threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


class Guest:
    """What a room asks of a call."""

    id = "guest"
    due = False

    def __init__(self, number: int) -> None:
        self.number = number
        self.answer: object = None


def _serve(room: Any, guests: list[Guest]) -> None:
    """Serve each, once it has asked."""
    for guest in guests:
        while guest.answer is None:
            with suppress(LookupError):  # it has not asked yet
                room.serve(guest)


def _meet(room: Any, guests: list[Guest]) -> None:
    """Have guests ask in any order, beside four threads that serve."""
    threads = [
        threading.Thread(target=_serve, args=(room, guests[place::4]))
        for place in range(4)
    ]
    for thread in threads:
        thread.start()
    for guest in random.sample(guests, len(guests)):
        room.ask(guest)
    for thread in threads:
        thread.join(GUARD)


def test_asking_beside_those_who_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks meets no list that shrinks under its hands, and each is served once (I7)."""

    def attempt(batch: list[Guest]) -> None:
        for guest in batch:
            served.append(guest.number)
            guest.answer = "served"

    monkeypatch.setattr("persistent_nonce.room.attempt_together", attempt)
    served: list[int] = []

    with restless():
        for _ in range(60):
            served.clear()
            _meet(Room(), [Guest(number) for number in range(200)])
            assert sorted(served) == list(range(200))


def test_a_thread_that_ended_while_it_was_given_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler that takes its time between the choice of a thread and its call loses no call (I8; A18)."""

    class Late:
        """The module `os`, whose `getpid` is slow once, as a handler that runs there makes it."""

        armed = False

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def getpid(self) -> int:
            if Late.armed and sys._getframe(1).f_code.co_name == "take":
                Late.armed = False
                signal.raise_signal(signal.SIGUSR1)
            return os.getpid()

    async def step() -> str:
        return await do(lambda: "made")

    async def main() -> list[str]:
        made = [await arun(step())]
        Late.armed = True
        made.append(await asyncio.wait_for(arun(step()), GUARD))
        assert not Late.armed
        return made

    monkeypatch.setattr(steps, "os", Late())
    before = signal.signal(signal.SIGUSR1, lambda *_: time.sleep(4 * steps._KEPT))
    try:
        assert asyncio.run(main()) == ["made", "made"]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_a_loop_that_ends_with_tasks_waiting(
    store: SQLiteStore,
    gate: CallGate,
    closed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tasks that are collected with their loop leave in silence, and leave nothing (I3, I7)."""
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    async def main() -> None:
        tasks: list[Any] = [asyncio.create_task(passes(gate)) for _ in range(5)]
        await queued(store, gate, 5)
        await asyncio.sleep(0.3)  # until all wait for their bells
        for task in tasks:
            task._log_destroy_pending = False  # so is meant

    async def later() -> None:
        gc.collect()
        await asyncio.sleep(0.1)
        gc.collect()

    with gate.call("Ledgers"):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        if closed:
            loop.close()
        else:
            loop._selector.close()  # type: ignore[attr-defined]  # its end would warn
            loop._csock.close()  # type: ignore[attr-defined]  # its end would warn
            loop._ssock.close()  # type: ignore[attr-defined]  # its end would warn
            loop._closed = True  # type: ignore[attr-defined]  # its end would warn
        del loop
        asyncio.run(later())
    until(lambda: nothing_left(store, gate), "the calls to be taken back")
    assert complaints == []


class OddError(StoreUnavailableError):
    """An error that a copy cannot be made of."""

    def __init__(self, *, code: int) -> None:
        super().__init__("odd")
        self.code = code


class Odd(MemoryStore):
    """A store whose errors are its own."""

    def update(self, *_: object, **__: object) -> Any:
        """Fail."""
        raise OddError(code=7)


def test_the_error_of_a_store_of_another_kind() -> None:
    """Tasks that wait together are told the error that the store raised, of whatever class."""
    gate = CallGate(Odd(), KEY)

    async def main() -> list[Any]:
        crowd = [passes(gate) for _ in range(5)]
        return await asyncio.gather(*crowd, return_exceptions=True)

    errors = asyncio.run(main())
    assert [type(error) for error in errors] == [OddError] * 5
    assert {error.code for error in errors} == {7}


def test_loops_are_let_go(gate: CallGate) -> None:
    """A loop in which more calls waited than there are threads is collected once it has ended."""

    async def main() -> Callable[[], object]:
        await asyncio.gather(*(passes(gate) for _ in range(30)))
        return ref(asyncio.get_running_loop())

    ended = [asyncio.run(main()) for _ in range(3)]

    def collected() -> bool:
        gc.collect()
        return [loop() for loop in ended] == [None] * 3

    until(collected, "its threads, which hold it for a moment after its last call")


def test_a_state_without_tasks(store: SQLiteStore, gate: CallGate) -> None:
    """A loop whose tasks all have gone leaves no room behind (I7)."""
    asyncio.run(passes(gate))
    store.update(gate.key, lambda state, _: Changed(state))
    gc.collect()
    assert dict(_rooms) == {}


# --- turns that come too late


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
        if getattr(change, "_running", self) is None and not self.done.is_set():
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
    """Wait until so many ask in a room for their turn."""
    while [len(room._asking) for room in _rooms.values()] != [count]:  # noqa: ASYNC110 - set in threads
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
