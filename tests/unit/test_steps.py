"""Procedures of steps: their results, their errors, on which thread they run, and for whom."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from persistent_nonce.steps import Steps, arun, do, identity, pause, run
from tests.support.failing_steps import BoomError, fail


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
