"""Procedures that wait, written once and run on a thread or on an event loop.

A procedure is a coroutine that awaits only `do(call)`, a blocking call, and `pause(seconds)`. `run` carries
these steps out on this thread, `arun` on the running loop, each call in a worker thread. What is for loops only may
await `until(awaitable)` too. A test may drive a procedure one step at a time instead, or drop it half-way to model a
crash.

An error that strikes while a step is carried out, or between two, is thrown into the procedure where it
waits, so that its own cleaning up runs. A caller that is interrupted or cancelled may lose the result of a call
that was carried out: whatever a procedure does must be undoable by an id chosen before.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary

if TYPE_CHECKING:
    import asyncio
    from asyncio import AbstractEventLoop, Semaphore

__all__ = [
    "Bell",
    "Step",
    "Steps",
    "arun",
    "do",
    "identity",
    "pause",
    "run",
    "until",
]

T = TypeVar("T")

#: Threads in which the calls of one loop are made. They are not the loop's own pool: a program may have
#: filled that with threads that wait for their turn, and the call that they wait for could not end.
_THREADS: Final = 8
#: By the id of the loop, which those in it keep: a semaphore holds on to its loop.
_limits: WeakValueDictionary[int, Semaphore] = WeakValueDictionary()

#: Seconds for which one is kept without a call: to start another lasts longer than most calls, and the loop waits.
_KEPT: Final = 0.05
_idle: WeakKeyDictionary[AbstractEventLoop, list[_Worker]] = WeakKeyDictionary()

#: What a procedure yields: a call to be made, seconds to be waited, or what a loop can await.
Step: TypeAlias = Callable[[], Any] | float | Awaitable[Any]
Steps: TypeAlias = Coroutine[Step, Any, T]
_Job: TypeAlias = "tuple[Callable[[], Any], AbstractEventLoop, asyncio.Future[Any]]"


@coroutine
def do(call: Callable[[], T]) -> Generator[Step, Any, T]:
    """Have `call` made, and return its result."""
    result: T = yield call
    return result


@coroutine
def pause(seconds: float) -> Generator[Step, Any, bool]:
    """Wait for `seconds` of real time; return whether it was ended early, which a loop does not tell."""
    return bool((yield float(seconds)))


@coroutine
def until(awaitable: Awaitable[T]) -> Generator[Step, Any, T]:
    """Have `awaitable` awaited, by `arun`, and return its result."""
    result: T = yield awaitable
    return result


def run(steps: Steps[T], *, rest: Callable[[float], object] | None = None) -> T:
    """Carry `steps` out on this thread and return their result.

    Args:
        rest: what a pause is; it may end early, and tells so.

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
                resume, value = _perform(step, procedure, rest or time.sleep)
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
    step: Step,
    procedure: CoroutineType[Step, Any, Any],
    rest: Callable[[float], object],
) -> tuple[Callable[[Any], Step], Any]:
    """Carry out one step; return how the procedure goes on, and with what."""
    try:
        if callable(step):
            return procedure.send, step()
        if not isinstance(step, float):
            raise TypeError("a step for an event loop, outside one")
        return procedure.send, rest(step)
    except BaseException as error:  # noqa: BLE001 - the procedure's to handle
        return procedure.throw, error


async def arun(steps: Steps[T], bell: Bell | None = None) -> T:
    """Carry `steps` out on the running loop, each call in a worker thread, and return their result.

    A call that has begun is waited for even when the task is cancelled: an abandoned thread would go on to
    take what nobody then gives back.

    Args:
        bell: what may end a pause early.
    """
    from asyncio import sleep  # noqa: PLC0415 - who has no event loop need not load it

    rest = sleep if bell is None else bell.wait
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
                    value = await (rest(step) if isinstance(step, float) else step)
        except StopIteration as end:
            result: T = end.value
            return result
        except BaseException as error:
            if procedure.cr_frame is None:
                value = None
                raise
            resume, value = procedure.throw, error


class Bell:
    """What ends a pause of one procedure early. To be made on the running loop, and used on its thread only.

    Attributes:
        loop: the loop.
    """

    def __init__(self) -> None:
        from asyncio import get_running_loop  # noqa: PLC0415 - as above

        self.loop = get_running_loop()
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """End the pause, or the next one if there is none now."""
        self._rung = True
        self._end()

    def _end(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._waiting.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until it rings."""
        if not self._rung:
            self._waiting = self.loop.create_future()
            timer = self.loop.call_later(seconds, self._end)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._rung = False


async def _in_thread(call: Callable[[], T]) -> T:
    """Make `call` in another thread; when cancelled, raise only once it has ended."""
    import asyncio  # noqa: PLC0415 - as above

    loop = asyncio.get_running_loop()
    async with _limits.setdefault(id(loop), asyncio.Semaphore(_THREADS)):
        # A future, not a task: when a loop shuts down it cancels every task it knows.
        work: asyncio.Future[T] = loop.create_future()
        _hand_over((call, loop, work))
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


def _hand_over(job: _Job) -> None:
    """Give `job` to a thread that is kept, or to a new one."""
    idle = _idle.setdefault(job[1], [])
    while idle:
        with suppress(IndexError):  # it has ended, or is another process's
            idle.pop().take(job)
            return
    _Worker(idle).start(job)


class _Worker:
    """A thread that makes one call after another, and ends when there is none for a while.

    It needs no lock, which an interrupt on the loop's thread could leave held: who pops its token, the loop or the
    thread itself, says whether it goes on.
    """

    def __init__(self, idle: list[_Worker]) -> None:
        self._idle = idle
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._token: list[int] = []
        self._ended = False

    def start(self, job: _Job) -> None:
        """Begin with `job`."""
        self._jobs.put(job)
        threading.Thread(target=self._work).start()

    def take(self, job: _Job) -> None:
        """Go on with `job`, or raise IndexError."""
        if self._token.pop() != os.getpid():
            raise IndexError
        self._jobs.put(job)
        # A signal handler, or another thread, may have kept this one from it for too long.
        if self._ended:
            with suppress(Empty):
                self._jobs.get_nowait()
                raise IndexError

    def _work(self) -> None:
        with suppress(Empty):
            while True:
                self._make_next()
        with suppress(ValueError):
            self._idle.remove(self)

    def _make_next(self) -> None:
        """Make the next call; raise Empty if there is none."""
        try:
            call, loop, work = self._jobs.get(timeout=_KEPT)
        except Empty:
            with suppress(IndexError):
                self._token.pop()
                raise
            call, loop, work = self._get_late()
        done = _make(call, work)
        self._ended = False
        # Before the result is told: whoever has the next call shall find this thread.
        self._token.append(os.getpid())
        self._idle.append(self)
        with suppress(RuntimeError):  # the loop was closed without waiting
            loop.call_soon_threadsafe(done)

    def _get_late(self) -> _Job:
        """Return a job that is on its way, but not for ever: an interrupt may have lost it."""
        with suppress(Empty):
            return self._jobs.get(timeout=_KEPT)
        self._ended = True
        # Who puts one there from now on sees that nobody takes it.
        return self._jobs.get_nowait()


def _make(call: Callable[[], T], work: asyncio.Future[T]) -> Callable[[], None]:
    try:
        return partial(work.set_result, call())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        return partial(work.set_exception, error)


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
