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

from persistent_nonce import CallGate, SQLiteStore, steps
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.room import Room, _rooms
from persistent_nonce.state import Changed
from persistent_nonce.steps import arun, do
from persistent_nonce.stores.memory import MemoryStore
from tests.support import databases
from tests.support.callers import until
from tests.support.crowds import nothing_left, passes, queued
from tests.support.processes import GUARD, Children
from tests.support.workers import KEY

#: How many calls stand ahead, so that who is behind them looks seldom.
AHEAD: Final = 20

path, store = databases.path, databases.store


@pytest.fixture
def gate(store: SQLiteStore) -> CallGate:
    """Return a gate without an interval; who is found dead is found so long before its time is up."""
    return CallGate(store, KEY, min_interval=0.0, timeout=2 * GUARD)


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
