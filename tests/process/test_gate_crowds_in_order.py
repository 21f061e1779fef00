"""The order in which tasks that wait together have their turns, however they came."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from persistent_nonce import CallGate
from persistent_nonce.stores.sessions import FileSession
from tests.support import crowds
from tests.support.callers import GUARD, Caller, until
from tests.support.crowds import LOOPS, RUN, NotingStore, nothing_left, queued
from tests.support.processes import Children
from tests.support.workers import KEY

store, gate = crowds.store, crowds.gate


@LOOPS
def test_one_order_for_tasks_threads_and_processes(
    store: NotingStore, gate: CallGate, loop: str
) -> None:
    """Tasks and threads of one process and other processes have their turns as they came (I7)."""
    order: list[str] = []

    def on_a_thread(name: str) -> None:
        with gate.call("Ledgers"):
            order.append(name)

    async def in_a_task(name: str) -> None:
        async with gate.call("Balance"):
            order.append(name)

    async def of_another(caller: Caller, name: str) -> None:
        assert isinstance(await asyncio.to_thread(caller.answer), int)
        order.append(name)
        await asyncio.to_thread(caller.leave)

    async def main(callers: list[Caller]) -> list[str]:
        coming, names = [], []
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(12))
        async with gate.call("Balance"):
            for number in range(12):
                kind = ("task", "thread", "process")[number % 3]
                names.append(f"{kind} {number}")
                if kind == "process":
                    other = callers.pop()
                    other.ask("Balance")
                    turn: Any = of_another(other, names[-1])
                else:
                    task = kind == "task"
                    turn = (
                        in_a_task(names[-1])
                        if task
                        else asyncio.to_thread(on_a_thread, names[-1])
                    )
                coming.append(asyncio.create_task(turn))
                await queued(store, gate, number + 1)
        await asyncio.wait_for(asyncio.gather(*coming), GUARD)
        return names

    with Children() as children:
        callers = [Caller(children, store.path) for _ in range(4)]
        assert RUN[loop](main(callers)) == order
    assert nothing_left(store, gate)


def test_a_higher_priority_among_tasks(store: NotingStore, gate: CallGate) -> None:
    """A task of a higher priority that comes last goes first, also in a crowd that waits (I7)."""
    order: list[int] = []

    async def passage(number: int, priority: int = 0) -> None:
        async with gate.call("Balance", priority=priority):
            order.append(number)

    async def main() -> None:
        async with gate.call("Ledgers"):
            crowd = [asyncio.create_task(passage(number)) for number in range(5)]
            await queued(store, gate, 5)
            crowd.append(asyncio.create_task(passage(5, priority=10)))
            await queued(store, gate, 6)
        await asyncio.wait_for(asyncio.gather(*crowd), GUARD)

    asyncio.run(main())
    assert order[0] == 5
    assert nothing_left(store, gate)


def test_a_crowd_whose_loop_stood_still(store: NotingStore, gate: CallGate) -> None:
    """Tasks that were passed over while their loop stood still keep their order once it moves (I7)."""
    order: list[int] = []

    async def passage(number: int) -> None:
        async with gate.call("Balance"):
            order.append(number)

    def others_turn() -> None:
        with NotingStore(store.path) as theirs:
            other = CallGate(theirs, KEY, timeout=GUARD)
            blocked.wait(GUARD)
            with other.call("Ledgers"):
                order.append(-1)
                last = threading.Thread(target=last_turn, args=(other,))
                last.start()
                until(lambda: "Ledgers" in methods(theirs), "the last to come")
                passed.set()
                until(lambda: not any(late(theirs)), "the loop to be present again")
            last.join(GUARD)

    def last_turn(other: CallGate) -> None:
        with other.call("Ledgers"):
            order.append(99)

    def methods(theirs: NotingStore) -> list[str]:
        return [call.method for call in theirs.read(gate.key).queue]

    def late(theirs: NotingStore) -> list[bool]:
        return [call.late for call in theirs.read(gate.key).queue]

    blocked, passed = threading.Event(), threading.Event()
    other = threading.Thread(target=others_turn)
    other.start()

    async def main() -> None:
        async with gate.call("Ledgers"):
            crowd = []
            for number in range(20):
                crowd.append(asyncio.create_task(passage(number)))
                await queued(store, gate, number + 1)
        blocked.set()
        assert passed.wait(GUARD)  # the loop stands still here
        await asyncio.wait_for(asyncio.gather(*crowd), GUARD)

    asyncio.run(main())
    other.join(GUARD)
    assert order.index(-1) <= 1  # one may have begun before
    assert [number for number in order if number >= 0] == [*range(20), 99]
    assert nothing_left(store, gate)


@LOOPS
def test_tasks_that_start_at_once(gate: CallGate, loop: str) -> None:
    """Tasks that are started in one turn of the loop have their turns in the order in which they were started (I7)."""
    order: list[int] = []

    async def passes(number: int) -> None:
        async with gate.call("Balance"):
            order.append(number)

    async def main() -> None:
        await asyncio.gather(*map(passes, range(200)))

    RUN[loop](main())
    assert order == [*range(200)]


@LOOPS
def test_tasks_whose_session_comes_late(
    store: NotingStore, gate: CallGate, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that ask for their session at once go on in their order, also when it is told to one late (I7)."""
    order: list[int] = []
    asked = itertools.count()
    session = store.session

    def slow() -> FileSession:
        if next(asked) == 0:
            time.sleep(0.2)
        return session()

    monkeypatch.setattr(store, "session", slow)

    async def passes(number: int) -> None:
        async with gate.call("Balance"):
            order.append(number)

    async def main() -> None:
        await asyncio.gather(*map(passes, range(40)))

    RUN[loop](main())
    monkeypatch.undo()
    assert order == [*range(40)]
    assert nothing_left(store, gate)


@LOOPS
def test_tasks_that_come_when_the_session_is_known(
    store: NotingStore, gate: CallGate, loop: str
) -> None:
    """Who comes when the session is there already goes on behind those who are about to be told of it (I7)."""
    came: list[int] = []
    order: list[int] = []

    async def passes(number: int) -> None:
        came.append(number)
        async with gate.call("Balance"):
            order.append(number)

    async def main() -> None:
        first = [asyncio.ensure_future(passes(number)) for number in range(20)]
        while store.known_session() is None:  # noqa: ASYNC110 - begun in a thread
            await asyncio.sleep(0)
        late: list[asyncio.Future[None]] = []
        for number in range(20, 40):
            late.append(asyncio.ensure_future(passes(number)))
            await asyncio.sleep(0)
        await asyncio.gather(*first, *late)

    RUN[loop](main())
    assert came == [*range(40)]
    assert order == came
    assert nothing_left(store, gate)
