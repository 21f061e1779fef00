"""Procedures of steps: their results, their errors, and that nothing keeps them from cleaning up."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest

from persistent_nonce.steps import Steps, arun, do, identity, pause, run


class BoomError(Exception):
    """The error of these tests."""


class Interrupt(KeyboardInterrupt):
    """The interrupt of these tests."""


def fail() -> None:
    """Be a step that fails."""
    raise BoomError("text")


def on_a_thread(procedure: Steps[Any]) -> Any:
    """Run a procedure as a blocking caller does."""
    return run(procedure)


def on_a_loop(procedure: Steps[Any]) -> Any:
    """Run a procedure as a task does."""
    return asyncio.run(arun(procedure))


RUNNERS = pytest.mark.parametrize("runner", [on_a_thread, on_a_loop])
Runner = Callable[[Steps[Any]], Any]


@RUNNERS
def test_results_reach_the_procedure_and_its_caller(runner: Runner) -> None:
    """Each step's result comes back to the procedure, and its own to the caller."""

    async def procedure() -> list[object]:
        results: list[object] = [await do(lambda: 1), await do(list[int])]
        await pause(0)
        return results

    assert runner(procedure()) == [1, []]


@RUNNERS
def test_a_procedure_without_steps(runner: Runner) -> None:
    """A procedure that has no step to make gives its result all the same."""

    async def procedure() -> str:
        return "done"

    assert runner(procedure()) == "done"


@RUNNERS
def test_an_error_of_a_step_is_raised_where_it_was_awaited(runner: Runner) -> None:
    """A procedure can handle what a step raised, and go on."""

    async def procedure() -> str:
        try:
            await do(fail)
        except BoomError as error:
            text = f"handled {error}"
            return await do(lambda: text)
        return "not raised"

    assert runner(procedure()) == "handled text"


@RUNNERS
def test_an_unhandled_error_reaches_the_caller(runner: Runner) -> None:
    """What the procedure does not handle ends it and reaches the caller, after its cleaning up."""
    cleaned = []

    async def procedure() -> None:
        try:
            await do(fail)
        finally:
            await do(lambda: cleaned.append(1))
            await pause(0)

    with pytest.raises(BoomError, match="text"):
        runner(procedure())
    assert cleaned == [1]


@RUNNERS
def test_an_error_of_the_procedure_itself(runner: Runner) -> None:
    """An error raised between steps reaches the caller as it is."""

    async def procedure() -> None:
        await do(int)
        raise BoomError

    with pytest.raises(BoomError):
        runner(procedure())


def test_a_step_that_raises_stop_iteration() -> None:
    """The end of some iterator is not taken for the procedure's own end: it is an error, and is cleaned up after."""
    cleaned = []

    async def procedure() -> str:
        try:
            return await do(lambda: next(iter(())))
        finally:
            await do(lambda: cleaned.append(1))

    with pytest.raises(RuntimeError, match="StopIteration"):
        run(procedure())
    assert cleaned == [1]


@RUNNERS
def test_pauses_are_carried_out(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause is slept for in seconds, also when it is a whole number."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def procedure() -> None:
        await pause(1)
        await pause(0.25)

    runner(procedure())
    assert slept == [1.0, 0.25]


def test_a_procedure_can_be_driven_by_hand() -> None:
    """A test may carry out the steps itself, and drop a procedure half-way."""

    async def procedure() -> int:
        await pause(2)
        return await do(lambda: 5)

    driven = procedure()
    length = driven.send(None)
    assert (length, type(length)) == (2.0, float)
    call = driven.send(None)
    assert callable(call)
    with pytest.raises(StopIteration) as end:
        driven.send(call())
    assert end.value.value == 5

    dropped = procedure()
    dropped.send(None)
    dropped.close()


def test_steps_run_on_this_thread_or_on_workers() -> None:
    """`run` makes calls on its own thread, `arun` never on the loop's."""

    async def procedure() -> int:
        return await do(threading.get_ident)

    assert run(procedure()) == threading.get_ident()
    assert on_a_loop(procedure()) != threading.get_ident()


@pytest.mark.parametrize("when", ["in a step", "in a pause"])
def test_an_interrupt_reaches_the_procedure(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt of a step or of a pause is raised in the procedure, which cleans up before the caller sees it."""

    def interrupted(*_: object) -> None:
        raise Interrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    cleaned = []

    async def procedure() -> None:
        try:
            await (do(interrupted) if when == "in a step" else pause(1))
        finally:
            await do(lambda: cleaned.append(1))

    with pytest.raises(Interrupt):
        run(procedure())
    assert cleaned == [1]


# --- signals that strike anywhere


@contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGALRM raise Interrupt on the main thread."""

    def strike(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def storm(procedure: Callable[[list[str]], Steps[None]], tries: int) -> tuple[int, int]:
    """Run `procedure` so often with an interrupt at a random moment; return interrupted and uncleaned runs."""
    random_moment = random.Random(7).uniform
    struck = uncleaned = 0
    with interrupts():
        for _ in range(tries):
            events: list[str] = []
            steps_of_it = procedure(events)
            try:
                signal.setitimer(signal.ITIMER_REAL, random_moment(2e-5, 1.2e-4))
                run(steps_of_it)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                struck += 1
            if events == ["begun"]:
                uncleaned += 1
            with suppress(Interrupt):
                steps_of_it.close()
    return struck, uncleaned


@pytest.mark.storm
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("call", [int, fail])
def test_interrupts_between_steps(call: Callable[[], Any]) -> None:
    """Wherever an interrupt strikes, a procedure that has begun cleans up (trap 6, fault A18).

    It may strike just when a failed step's error is on its way to the procedure.
    """

    async def procedure(events: list[str]) -> None:
        try:
            events.append("begun")
            for _ in range(200):
                with suppress(BoomError):
                    await do(call)
        finally:
            events.append("cleaned")

    struck, uncleaned = storm(procedure, 3_000)
    assert struck > 1_000
    assert uncleaned == 0


@pytest.mark.storm
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_interrupts_leave_nothing_taken() -> None:
    """What a step took before an interrupt, the cleaning step gives back, also if the step's result was lost."""
    taken: set[int] = set()

    async def procedure(events: list[str]) -> None:
        try:
            events.append("begun")
            for number in range(100):
                try:
                    await do(partial(taken.add, number))
                finally:
                    await do(partial(taken.discard, number))
        finally:
            events.append("cleaned")
            taken.clear()  # a second interrupt is not part of this storm

    struck, uncleaned = storm(procedure, 2_000)
    assert struck > 500
    assert (uncleaned, taken) == (0, set())


# --- cancellation


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


# --- who is running


def test_identity() -> None:
    """A thread, a task and another task are three callers; a worker thread of a task is a fourth (design §7)."""
    assert identity() == (threading.get_ident(), 0)

    async def one() -> tuple[int, int]:
        return identity()

    async def main() -> list[tuple[int, int]]:
        here = identity()
        assert here == identity()
        a, b = asyncio.create_task(one()), asyncio.create_task(one())
        return [here, await a, await b, await asyncio.to_thread(identity)]

    callers = asyncio.run(main())
    assert len(set(callers)) == 4
    assert callers[3][1] == 0


def test_identity_without_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that never loaded asyncio has threads only."""
    monkeypatch.delitem(sys.modules, "asyncio")
    assert identity() == (threading.get_ident(), 0)


class Token:
    """Something whose end can be seen."""


def test_an_error_leaves_no_cycle() -> None:
    """After an error nothing of the procedure is kept alive, so that dropped calls are finished soon."""
    seen: list[weakref.ref[Token]] = []

    async def procedure() -> None:
        token = Token()
        seen.append(weakref.ref(token))
        await do(fail)

    gc.disable()
    try:
        with suppress(BoomError):
            run(procedure())
        assert seen[0]() is None
    finally:
        gc.enable()
