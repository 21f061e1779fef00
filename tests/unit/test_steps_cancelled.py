"""A task that is cancelled in a procedure of steps ends its call first, and cleans up."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from persistent_nonce.steps import Steps, arun, do, pause
from tests.support.failing_steps import BoomError, fail


class Held:
    """A call that lasts until `go` is set, and what happened in which order."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.events: list[str] = []

    def __call__(self) -> None:
        """Wait until it may end."""
        self.begun.set()
        assert self.go.wait(10)
        self.events.append("call ended")

    async def procedure(self) -> None:
        """Make the call, and clean up after it."""
        try:
            await do(self)
        finally:
            await do(lambda: self.events.append("cleaned"))

    async def begin(self, procedure: Steps[None]) -> asyncio.Task[None]:
        """Return a task of `procedure`, in which the call has begun."""
        task = asyncio.create_task(arun(procedure))
        assert await asyncio.to_thread(self.begun.wait, 10)
        return task


async def ends_cancelled(task: asyncio.Task[None]) -> None:
    """Wait for the end of a task that was cancelled."""
    with pytest.raises(asyncio.CancelledError):
        await task


def test_cancelling_waits_for_the_call() -> None:
    """A cancelled task ends only after the call that it had begun, and its procedure cleans up (trap 3)."""
    held = Held()

    async def main() -> None:
        task = await held.begin(held.procedure())
        for _ in range(20):  # many cancellations are as good as one
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        held.go.set()
        await ends_cancelled(task)

    asyncio.run(main())
    assert held.events == ["call ended", "cleaned"]


def test_cancelling_hides_the_error_of_the_call() -> None:
    """A call that fails after its task was cancelled leaves a cancelled task and no complaint."""
    held = Held()

    def slow() -> None:
        held()
        raise BoomError

    async def procedure() -> None:
        await do(slow)

    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = await held.begin(procedure())
        task.cancel()
        await asyncio.sleep(0)
        held.go.set()
        await ends_cancelled(task)
        del task
        await asyncio.sleep(0)  # the loop, too, lets go of it
        gc.collect()

    asyncio.run(main())
    assert complaints == []


def test_cancelling_a_pause_ends_it_at_once() -> None:
    """A task that only pauses is cancelled without waiting, and its procedure cleans up."""
    cleaned = []

    async def procedure() -> None:
        try:
            await pause(3_600)
        finally:
            await do(lambda: cleaned.append(1))

    async def main() -> None:
        task = asyncio.create_task(arun(procedure()))
        await asyncio.sleep(0)
        task.cancel()
        await ends_cancelled(task)

    asyncio.run(main())
    assert cleaned == [1]


def test_cancelling_during_the_cleaning_up() -> None:
    """A second cancellation does not keep the cleaning step from being carried out to its end."""
    held = Held()

    async def procedure() -> None:
        try:
            await do(fail)
        finally:
            await do(held)

    async def main() -> None:
        task = await held.begin(procedure())
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        held.go.set()
        await ends_cancelled(task)

    asyncio.run(main())
    assert held.events == ["call ended"]


def test_a_loop_that_shuts_down_waits_for_the_call() -> None:
    """A task left over at the end of `asyncio.run` still ends its call and cleans up."""
    held = Held()

    async def main() -> asyncio.Task[None]:
        task = await held.begin(held.procedure())
        threading.Timer(0.05, held.go.set).start()
        return task

    assert asyncio.run(main()).cancelled()
    assert held.events == ["call ended", "cleaned"]


def test_many_procedures_share_a_small_pool() -> None:
    """More tasks than worker threads all come to their end, none waiting inside a worker."""

    async def procedure(number: int) -> int:
        await pause(0.001)
        return await do(lambda: number)

    async def main() -> list[int]:
        return await asyncio.gather(*(arun(procedure(n)) for n in range(200)))

    assert asyncio.run(main()) == list(range(200))
