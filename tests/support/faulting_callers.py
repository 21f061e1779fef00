"""Callers that stand still, are interrupted or leave something behind, many times over in one process."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Final

from persistent_nonce import CallGate, NonceError, SQLiteStore
from tests.support.callers import GUARD
from tests.support.workers import KEY, say

__all__ = ["ENDINGS", "BodyError", "block_a_loop", "leave_a_place", "nothing_left"]


class BodyError(Exception):
    """The error of a call's body."""


def nothing_left(store: SQLiteStore, gate: CallGate) -> bool:
    """Whether neither the shared state nor this process knows of a call."""
    state, session = store.read(gate.key), store.session()
    mine = session.live or session.callers
    return state.running is None and not state.queue and not mine


# --- how a call ends


def _raise(gate: CallGate) -> None:
    error, raised = BodyError("the body's own"), None
    try:
        with gate.call("AddOrder"):
            raise error
    except BodyError as caught:
        raised = caught
    assert raised is error
    assert raised.__cause__ is None


def _close_a_generator(gate: CallGate) -> None:
    def pages() -> Iterator[int]:
        with gate.call("AddOrder"):
            yield 1
            yield 2

    generator = pages()
    assert next(generator) == 1
    generator.close()  # type: ignore[attr-defined]  # a generator has it


def _die(gate: CallGate) -> None:
    died: list[type[BaseException]] = []

    def work() -> None:
        try:
            _raise_exit(gate)
        except SystemExit:
            died.append(SystemExit)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(GUARD)
    assert died == [SystemExit]


def _raise_exit(gate: CallGate) -> None:
    with gate.call("AddOrder"):
        sys.exit()


def _cancel(gate: CallGate) -> None:
    async def caller(inside: asyncio.Event) -> None:
        async with gate.call("AddOrder"):
            inside.set()
            await asyncio.sleep(GUARD)

    async def main() -> None:
        inside = asyncio.Event()
        task = asyncio.create_task(caller(inside))
        await inside.wait()
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        raise AssertionError("the task was not cancelled")

    asyncio.run(main())


#: How a call ends before its time; each ends with the call's exit.
ENDINGS: Final = {
    "an error": _raise,
    "a cancelled task": _cancel,
    "a closed generator": _close_a_generator,
    "a dead thread": _die,
}


# --- waiters that do not move


def block_a_loop(path: str) -> None:
    """Wait for a turn on an event loop that is blocked when told so, until told otherwise; again and again."""
    gate = CallGate(SQLiteStore(path), KEY, min_interval=0.0, timeout=600)

    async def caller() -> None:
        async with gate.call("Balance"):
            pass

    async def main() -> None:
        task = asyncio.create_task(caller())
        await asyncio.to_thread(sys.stdin.readline)  # meanwhile it waits for its turn
        say("blocked")
        sys.stdin.readline()  # the loop stands still here
        await task
        say("done")

    for _ in iter(sys.stdin.readline, "end\n"):
        asyncio.run(main())


def leave_a_place(path: str) -> None:
    """Leave a place in the queue that nobody of this process will take, and stay; again and again."""
    store = SQLiteStore(path)
    gate = CallGate(store, KEY, min_interval=0.0, timeout=0.0)
    for _ in iter(sys.stdin.readline, "end\n"):
        call = gate.call("Balance")
        steps = call._enter()  # driven by hand, so that it stops in the queue
        call._begin()
        step = steps.send(None)
        while not store.read(gate.key).queue:
            step = steps.send(step() if callable(step) else None)
        say("left")
        sys.stdin.readline()
        try:
            steps.close()
        except NonceError:
            say("failed")
        del call
        say("gone")
