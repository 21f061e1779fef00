"""The gate on an event loop: many tasks, cancelled at any moment, a loop that stands still, a loop that ends."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from persistent_nonce import (
    CallGate,
    GateTimeoutError,
    InvalidNonceError,
    SQLiteStore,
    steps,
)
from persistent_nonce.errors import NestedCallError
from tests.support import crowds
from tests.support.callers import GUARD, Book, until
from tests.support.crowds import nothing_left, queued
from tests.support.workers import KEY

store, gate = crowds.store, crowds.gate


def test_many_tasks_many_cancelled(
    store: SQLiteStore, gate: CallGate, tmp_path: Path
) -> None:
    """Of 150 tasks 100 are cancelled at random: one in flight, those left all served, nothing left (I5, A19)."""
    book, moment = Book(tmp_path / "book"), random.Random(7)
    served = []

    async def caller(number: int) -> None:
        async with gate.call("Balance") as call:
            with book.visit(call.nonce, 0):
                await asyncio.sleep(moment.uniform(0, 0.004))
        served.append(number)

    async def main() -> list[int]:
        tasks = [asyncio.create_task(caller(number)) for number in range(150)]
        victims = moment.sample(range(150), 100)
        for victim in victims:
            await asyncio.sleep(moment.uniform(0, 0.012))
            tasks[victim].cancel()
            if moment.random() < 0.3:
                tasks[victim].cancel()
        for number in set(range(150)) - set(victims):
            await tasks[number]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return [n for n, end in enumerate(done) if isinstance(end, BaseException)]

    threads = threading.active_count()
    cancelled = asyncio.run(main())
    assert len(cancelled) > 30
    assert sorted(cancelled + served) == list(range(150))
    assert nothing_left(store, gate)
    assert len(book.visits()) >= len(served)
    until(lambda: threading.active_count() <= threads, "the threads to end")
    with CallGate(store, KEY, timeout=GUARD).call("Balance"):
        pass


def test_threads_tasks_and_loops_together(
    store: SQLiteStore, gate: CallGate, tmp_path: Path
) -> None:
    """Tasks of two loops and plain threads share one gate (I5)."""
    book = Book(tmp_path / "book")

    async def task() -> None:
        for _ in range(5):
            async with gate.call("Balance") as call:
                with book.visit(call.nonce, 0):
                    await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(5)))

    def on_a_thread() -> None:
        for _ in range(5):
            with gate.call("Ledgers") as call, book.visit(call.nonce, 0):
                pass

    with ThreadPoolExecutor(5) as pool:
        ends = [pool.submit(lambda: asyncio.run(tasks())) for _ in range(2)]
        ends += [pool.submit(on_a_thread) for _ in range(3)]
        for end in ends:
            end.result()
    assert len(book.visits()) == 65
    assert nothing_left(store, gate)


def test_a_loop_whose_threads_all_wait_for_its_call(
    store: SQLiteStore, gate: CallGate
) -> None:
    """A task ends its call though every thread of the loop's own pool waits for that end."""

    def on_a_thread() -> None:
        with gate.call("Ledgers"):
            pass

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with gate.call("Balance"):
            thread = asyncio.create_task(asyncio.to_thread(on_a_thread))
            await queued(store, gate, 1)
        await asyncio.wait_for(thread, GUARD)

    asyncio.run(main())
    assert nothing_left(store, gate)


def test_a_cancelled_body(store: SQLiteStore, gate: CallGate) -> None:
    """A task cancelled in its call ends it as unknown before it ends itself, and is cancelled, not failed (A19)."""

    async def caller(inside: asyncio.Event) -> None:
        async with gate.call("AddOrder"):
            inside.set()
            await asyncio.sleep(600)

    async def main() -> None:
        for _ in range(50):
            inside = asyncio.Event()
            task = asyncio.create_task(caller(inside))
            await inside.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert nothing_left(store, gate)

    asyncio.run(main())
    assert [record.outcome for record in store.calls()] == ["unknown"] * 50


def test_a_timeout_around_a_wait(store: SQLiteStore, gate: CallGate) -> None:
    """`asyncio.timeout` ends a wait like any other, and the wait leaves the queue."""

    async def caller() -> None:
        async with asyncio.timeout(0.05), gate.call("Balance"):
            pass

    async def main() -> None:
        async with gate.call("Ledgers"):
            with pytest.raises(TimeoutError) as raised:
                await asyncio.create_task(caller())
            assert not isinstance(raised.value, GateTimeoutError)
            assert not store.read(gate.key).queue

    asyncio.run(main())
    assert nothing_left(store, gate)


def test_nested_calls_of_tasks(gate: CallGate) -> None:
    """A task cannot call inside its own call; a task that it has started is another caller, which waits (I8)."""

    async def child() -> int:
        async with gate.call("Ledgers") as call:
            return call.nonce

    async def main() -> None:
        async with gate.call("Balance") as outer:
            with pytest.raises(NestedCallError):
                await child()
            started = asyncio.create_task(child())
            await asyncio.sleep(0.02)
            assert not started.done()
        assert await started > outer.nonce

    asyncio.run(main())


def test_attempts_on_a_loop(store: SQLiteStore, gate: CallGate) -> None:
    """Attempts are the same with `async with`: a refused nonce is tried again, after the shared back-off."""
    nonces = []

    async def main() -> None:
        for attempt in gate.attempts("Balance"):
            async with attempt as call:
                nonces.append(call.nonce)
                if len(nonces) == 1:
                    raise InvalidNonceError

    asyncio.run(main())
    assert nonces[1] - nonces[0] >= 60 * 10**9
    outcomes = [record.outcome for record in store.calls()]
    assert outcomes == ["ok", "invalid_nonce"]


def test_a_loop_that_stands_still(store: SQLiteStore, gate: CallGate) -> None:
    """A process whose loop is blocked delays nobody for long, and has its turn once it moves (I7, A35)."""
    blocked, go = threading.Event(), threading.Event()
    order = []

    async def caller() -> None:
        async with gate.call("Balance"):
            order.append("blocked")

    async def main() -> None:
        task = asyncio.create_task(caller())
        await queued(store, gate, 1)
        blocked.set()
        assert go.wait(GUARD)  # the loop stands still here
        await task

    with SQLiteStore(store.path) as other:
        theirs = CallGate(other, KEY, timeout=GUARD, unit="ns")
        loop = threading.Thread(target=lambda: asyncio.run(main()))
        with theirs.call("Ledgers"):
            loop.start()
            assert blocked.wait(GUARD)
        with theirs.call("Ledgers"):
            order.append("other")
        go.set()
        loop.join(GUARD)
    assert order == ["other", "blocked"]
    assert nothing_left(store, gate)


def test_a_loop_that_ends(store: SQLiteStore, gate: CallGate) -> None:
    """Tasks left over when a loop ends, waiting or in a call, leave nothing."""

    async def caller(entered: asyncio.Event) -> None:
        async with gate.call("Balance"):
            entered.set()
            await asyncio.sleep(600)

    async def main() -> list[asyncio.Task[None]]:
        entered = asyncio.Event()
        tasks = [asyncio.create_task(caller(entered)) for _ in range(20)]
        await queued(store, gate, 19)
        await (
            entered.wait()
        )  # one that has its turn and does not know it yet is not sent
        return tasks

    assert all(task.cancelled() for task in asyncio.run(main()))
    assert nothing_left(store, gate)
    assert [record.outcome for record in store.calls()] == ["unknown"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_thrown_away(store: SQLiteStore, gate: CallGate) -> None:
    """Also a loop that is closed under its tasks leaves nothing for long: what is dropped is ended by others."""

    async def caller() -> None:
        async with gate.call("Balance"):
            await asyncio.sleep(600)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it would complain, rightly
    tasks = [loop.create_task(caller()) for _ in range(5)]
    loop.run_until_complete(queued(store, gate, 4))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    del tasks

    def ended() -> bool:
        import gc  # noqa: PLC0415 - tasks and their loop hold each other

        gc.collect()
        return nothing_left(store, gate)

    until(ended, "the dropped calls to end")


def test_an_async_generator_that_is_not_used_up(
    store: SQLiteStore, gate: CallGate
) -> None:
    """A call inside an async generator ends when the generator is closed."""

    async def pages() -> AsyncIterator[int]:
        async with gate.call("Ledgers"):
            yield 1
            yield 2

    async def main() -> None:
        generator = pages()
        assert await anext(generator) == 1
        await generator.aclose()  # type: ignore[attr-defined]  # a generator has it
        assert nothing_left(store, gate)

    asyncio.run(main())


def test_threads_make_what_may_wait_and_nothing_else(
    gate: CallGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passage goes to a thread for its two transactions, and the first one for its session too."""
    hops = []
    hand_over = steps._hand_over

    def count(job: steps._Job) -> None:
        hops.append(job)
        hand_over(job)

    async def main() -> None:
        for wanted in (3, 2, 2):
            hops.clear()
            async with gate.call("Balance"):
                pass
            assert len(hops) == wanted

    monkeypatch.setattr(steps, "_hand_over", count)
    asyncio.run(main())
