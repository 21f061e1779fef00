"""Procedures that wait, written once and run on a thread or on an event loop.

A procedure is a coroutine that awaits only `do(call)`, a blocking call, and `pause(seconds)`. `run` carries
these steps out on this thread, `arun` on the running loop, each call in a worker thread. What is for loops only may
await `until(awaitable)` too. A test may drive a
procedure one step at a time instead, or drop it half-way to model a crash.

An error that strikes while a step is carried out, or between two, is thrown into the procedure where it
waits, so that its own cleaning up runs. A caller that is interrupted or cancelled may lose the result of a call
that was carried out: whatever a procedure does must be undoable by an id chosen before.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop, Semaphore

__all__ = ["Step", "Steps", "arun", "do", "identity", "pause", "run", "until"]

T = TypeVar("T")

#: Threads in which the calls of one loop are made at once. They are not the loop's own pool: a program may have
#: filled that with threads that wait for their turn, and the call that they wait for could not end.
_THREADS: Final = 8
_limits: WeakKeyDictionary[AbstractEventLoop, Semaphore] = WeakKeyDictionary()

#: What a procedure yields: a call to be made, seconds to be waited, or what a loop can await.
Step: TypeAlias = Callable[[], Any] | float | Awaitable[Any]
Steps: TypeAlias = Coroutine[Step, Any, T]


@coroutine
def do(call: Callable[[], T]) -> Generator[Step, Any, T]:
    """Have `call` made, and return its result."""
    result: T = yield call
    return result


@coroutine
def pause(seconds: float) -> Generator[Step, None, None]:
    """Wait for `seconds` of real time."""
    yield float(seconds)


@coroutine
def until(awaitable: Awaitable[T]) -> Generator[Step, Any, T]:
    """Have `awaitable` awaited, by `arun`, and return its result."""
    result: T = yield awaitable
    return result


def run(steps: Steps[T]) -> T:
    """Carry `steps` out on this thread and return their result.

    Raises:
        BaseException: whatever the procedure raises, an interrupt that it was told of included.
    """
    procedure = cast("CoroutineType[Step, Any, T]", steps)
    resume: Callable[[Any], Step] = procedure.send
    value: Any = None
    while True:
        try:
            while True:
                step = resume(value)
                resume, value = procedure.send, None
                resume, value = _perform(step, procedure)
        except StopIteration as end:
            # Nothing is called here, nor below: CPython looks for signals after a call and when a loop goes
            # round, and one that struck here would lose the result, or leave the procedure where it waits.
            result: T = end.value
            return result
        except BaseException as error:
            if procedure.cr_frame is None:
                value = None  # the traceback holds this frame, and must not hold the error too
                raise
            resume, value = procedure.throw, error


def _perform(
    step: Step, procedure: CoroutineType[Step, Any, Any]
) -> tuple[Callable[[Any], Step], Any]:
    """Carry out one step; return how the procedure goes on, and with what."""
    try:
        if callable(step):
            return procedure.send, step()
        if not isinstance(step, float):
            raise TypeError("a step for an event loop, outside one")
        time.sleep(step)
        return procedure.send, None
    except BaseException as error:  # noqa: BLE001 - the procedure's to handle
        return procedure.throw, error


async def arun(steps: Steps[T]) -> T:
    """Carry `steps` out on the running loop, each call in a worker thread, and return their result.

    A call that has begun is waited for even when the task is cancelled: an abandoned thread would go on to
    take what nobody then gives back.
    """
    from asyncio import sleep  # noqa: PLC0415 - who has no event loop need not load it

    procedure = cast("CoroutineType[Step, Any, T]", steps)
    resume: Callable[[Any], Step] = procedure.send
    value: Any = None
    while True:
        try:
            while True:
                step = resume(value)
                resume, value = procedure.send, None
                if callable(step):
                    value = await _in_thread(step)
                else:
                    value = await (sleep(step) if isinstance(step, float) else step)
        except StopIteration as end:
            result: T = end.value
            return result
        except BaseException as error:
            if procedure.cr_frame is None:
                value = None
                raise
            resume, value = procedure.throw, error


async def _in_thread(call: Callable[[], T]) -> T:
    """Make `call` in a thread of its own; when cancelled, raise only once it has ended."""
    import asyncio  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    async with _limits.setdefault(loop, asyncio.Semaphore(_THREADS)):
        # A future, not a task: when a loop shuts down it cancels every task it knows.
        work: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=_make, args=(call, loop, work)).start()
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            while not work.done():
                try:
                    await asyncio.wait({work})
                except asyncio.CancelledError:
                    continue
            if not work.cancelled():
                work.exception()  # seen, or the loop would complain of it
            raise


def _make(
    call: Callable[[], T], loop: AbstractEventLoop, work: asyncio.Future[T]
) -> None:
    try:
        done = partial(work.set_result, call())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        done = partial(work.set_exception, error)
    with suppress(RuntimeError):  # the loop was closed without waiting
        loop.call_soon_threadsafe(done)


def identity() -> tuple[int, int]:
    """Return who is running: the thread and its current task (0 outside any), each as a number.

    Not a context variable: child tasks and `asyncio.to_thread` inherit those.
    """
    asyncio = sys.modules.get("asyncio")
    task = None
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs on this thread
            task = None
    return threading.get_ident(), id(task) if task is not None else 0
