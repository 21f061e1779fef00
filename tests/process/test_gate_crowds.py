"""Thousands of tasks at one gate, and what a loop's tasks that wait together owe each other."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop

from persistent_nonce import CallGate, LockedOutError
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    ConfigurationError,
    KeyClosedError,
    StoreUnavailableError,
)
from persistent_nonce.state import Changed, KeyState
from persistent_nonce.stores.sessions import FileSession
from tests.support.callers import GUARD, Caller, until
from tests.support.crowds import (
    Heart,
    NotingStore,
    cancelled_at,
    idle,
    nothing_left,
    queued,
)
from tests.support.processes import Children
from tests.support.workers import KEY

#: Seconds for which a loop may stand still: a guard for slow machines, ten times what a quiet one must keep.
STILL = 10 * 0.05

#: How many tasks start in one turn of the loop, which is the caller's own time.
_AT_ONCE = 50

RUN: dict[str, Callable[[Coroutine[Any, Any, Any]], Any]] = {
    "asyncio": asyncio.run,
    "uvloop": uvloop.run,
}
LOOPS = pytest.mark.parametrize("loop", RUN)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[NotingStore]:
    """Return a store."""
    with NotingStore(tmp_path / "nonces.db", timeout=60) as opened:
        yield opened


@pytest.fixture
def gate(store: NotingStore) -> CallGate:
    """Return a gate without an interval."""
    return CallGate(store, KEY, min_interval=0.0, timeout=600, unit="ns")


@pytest.mark.parametrize(
    ("loop", "tasks", "cancelled"),
    [
        ("asyncio", 2_000, 500),
        (
            "uvloop",
            2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 500,
            125,
        ),
    ],
)
def test_thousands_of_tasks(
    store: NotingStore, gate: CallGate, loop: str, tasks: int, cancelled: int
) -> None:
    """Of 2,000 tasks 500 are cancelled at random; the others come in order of their tickets, one at a time (I5, I7).

    They have 8 threads between them, keep their loop moving, and leave nothing.
    """
    moment, heart = random.Random(5), Heart()
    served: list[int] = []
    inside: list[int] = []

    async def caller(number: int) -> None:
        async with gate.call("Balance"):
            inside.append(number)
            assert len(inside) == 1, f"two in flight: {inside}"
            try:
                await asyncio.sleep(0.0005)
            finally:
                inside.pop()
        served.append(number)

    async def main() -> set[int]:
        beating = asyncio.create_task(heart.beat())
        crowd: list[asyncio.Task[None]] = []
        for number in range(tasks):
            crowd.append(asyncio.create_task(caller(number)))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        for victim in moment.sample(range(tasks), cancelled):
            await asyncio.sleep(moment.uniform(0, 0.01))
            crowd[victim].cancel()
        ends = await asyncio.gather(*crowd, return_exceptions=True)
        beating.cancel()
        assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
        return {number for number, end in enumerate(ends) if end is not None}

    gc.collect()
    gc.freeze()  # or a collection of all that a test run has loaded would be what is measured
    before = threading.active_count()
    with Children() as children:
        nearby = children.call(idle)
        nearby.wait_for("ready")
        wall, cpu = time.perf_counter(), time.process_time()
        gone = RUN[loop](main())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        nearby.tell()
        taken = nearby.result()
    gc.unfreeze()
    figures = (
        f"{wall:.1f} s, CPU {cpu:.1f} s, loop late by {heart.latest * 1e3:.0f} ms "
        f"(one that does nothing by {taken * 1e3:.0f} ms), {len(store.late)} passed over"
    )
    print(figures)  # noqa: T201 - shown with -rP, and where it fails
    assert len(gone) > cancelled // 2
    assert sorted([*served, *gone]) == list(range(tasks))
    in_order = sorted(store.begun, key=store.begun.__getitem__)
    assert len(in_order) >= len(served)
    # On a machine so busy that a thread does not run for a second, a call may let its turn pass.
    in_order = [call for call in in_order if call not in store.late]
    for one, next_ in pairwise(in_order):
        assert store.tickets[one] < store.tickets[next_]
    assert heart.threads - before <= 8 + 1  # one may be about to end
    assert heart.latest < STILL, figures
    assert nothing_left(store, gate)
    until(lambda: threading.active_count() <= before, "the threads to end")


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


@LOOPS
@pytest.mark.parametrize("place", [0, 1])
def test_cancelled_at_every_await(
    store: NotingStore, gate: CallGate, loop: str, place: int
) -> None:
    """Wherever a task is cancelled, first in line or behind, nothing of it is left and the next has its turn (A19)."""

    async def passage() -> None:
        async with gate.call("Balance"):
            await asyncio.sleep(0)

    async def victim(number: int) -> int:
        return await cancelled_at(number, passage())

    async def is_cancelled(number: int) -> bool:
        async with gate.call("Ledgers"):
            before = [asyncio.create_task(passage()) for _ in range(place)]
            await queued(store, gate, place)
            task = asyncio.create_task(victim(number))
            while len(store.read(gate.key).queue) == place and not task.done():  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)
            after = [asyncio.create_task(passage())]
            await queued(store, gate, place + 1)
            await asyncio.sleep(0.005)  # the first in line looks meanwhile
        await asyncio.wait_for(asyncio.gather(*before, *after), GUARD)
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert nothing_left(store, gate), f"cancelled at await {number}"
        if isinstance(end, asyncio.CancelledError):
            return True
        assert isinstance(end, int), end
        return end >= number

    async def main() -> int:
        number = 1
        while await is_cancelled(number):
            number += 1
        return number

    assert RUN[loop](main()) > 5
    assert not any(record.outcome == "in_flight" for record in store.calls())


def test_a_notice_is_passed_on(store: NotingStore, gate: CallGate) -> None:
    """Whoever is told that it is its turn, and is cancelled before it can see to that, has the next one told (I8)."""

    async def passage() -> None:
        async with gate.call("Balance"):
            pass

    async def main() -> None:
        for cancelled in (1, 2, 5):
            holder = gate.call("Ledgers")
            await holder.__aenter__()
            crowd = [asyncio.create_task(passage()) for _ in range(6)]
            await queued(store, gate, 6)
            await asyncio.sleep(0.01)
            await holder.__aexit__(None, None, None)
            for task in crowd[:cancelled]:  # the loop has not turned since it was told
                task.cancel()
            await asyncio.wait_for(
                asyncio.gather(*crowd, return_exceptions=True), GUARD
            )
            assert nothing_left(store, gate)

    asyncio.run(main())


def test_who_looks_leaves_in_trouble(
    store: NotingStore, gate: CallGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first in line is cancelled and cannot even be taken out, the next one looks for all from then on (I8)."""
    update = store.update

    def fail(*arguments: Any, **options: Any) -> KeyState:
        monkeypatch.setattr(store, "update", update)
        raise StoreUnavailableError("for a test")

    async def passage() -> None:
        async with gate.call("Balance"):
            pass

    async def main() -> None:
        with NotingStore(store.path) as theirs:
            holder = CallGate(theirs, KEY, min_interval=0.0, unit="ns").call("Ledgers")
            await asyncio.to_thread(holder.__enter__)
            crowd = []
            for count in (1, 2, 3):
                crowd.append(asyncio.create_task(passage()))
                await queued(store, gate, count)
            monkeypatch.setattr(store, "update", fail)
            crowd[0].cancel()
            await asyncio.wait(crowd[:1])
            holder.__exit__(None, None, None)
            await asyncio.wait_for(asyncio.gather(*crowd[1:]), GUARD)
            await asyncio.to_thread(until, lambda: nothing_left(store, gate), "the end")

    asyncio.run(main())


@pytest.mark.parametrize("what", ["closed", "locked out"])
def test_all_are_told_of_what_concerns_all(
    store: NotingStore, gate: CallGate, what: str
) -> None:
    """A key that is closed, or locked for longer than they may wait, ends the wait of every task at once (I8)."""
    told = KeyClosedError if what == "closed" else LockedOutError

    async def passage(allowed: float = 600) -> None:
        async with gate.call("Balance", timeout=allowed):
            pass

    def strike() -> None:
        store.update(
            gate.key,
            lambda state, now: Changed(
                state._replace(closed=True, diagnosis="for a test")
                if what == "closed"
                else state._replace(
                    set_at=now.wall, not_before=now.wall + 10_000 * SECOND
                )
            ),
        )

    async def main() -> list[BaseException | None]:
        async with gate.call("Ledgers"):
            first = asyncio.create_task(passage(1e6))  # who looks may wait for it
            await queued(store, gate, 1)
            crowd = [asyncio.create_task(passage()) for _ in range(60)]
            await queued(store, gate, 61)
            await asyncio.to_thread(strike)
            waits = asyncio.gather(*crowd, return_exceptions=True)
            ends: list[BaseException | None] = await asyncio.wait_for(waits, GUARD)
            first.cancel()
            await asyncio.wait({first})
            return ends

    assert {type(end) for end in asyncio.run(main())} == {told}
    assert nothing_left(store, gate)


def test_who_asks_for_something_else_is_refused_alone(
    store: NotingStore, gate: CallGate
) -> None:
    """Of tasks that come together, those whose settings contradict the key's are refused, and only those."""
    other = CallGate(store, KEY, min_interval=0.5, timeout=GUARD)

    async def passage(number: int) -> None:
        async with (other if number % 3 == 1 else gate).call("Balance"):
            pass

    async def main() -> list[object]:
        return await asyncio.gather(
            *(passage(number) for number in range(60)), return_exceptions=True
        )

    for number, end in enumerate(asyncio.run(main())):
        refused = isinstance(end, ConfigurationError)
        assert refused if number % 3 == 1 else end is None, (number, end)
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
