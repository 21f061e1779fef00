"""Signals at random moments, in processes of their own: interrupts of what a store does, and handlers that use it."""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any

from persistent_nonce import CallGate, NonceError, SQLiteStore
from persistent_nonce.provider import NonceProvider
from tests.support.checker import Log, Operation
from tests.support.processes import descriptors
from tests.support.storm import Storm, _interrupt
from tests.support.workers import KEY, say

__all__ = ["OPERATIONS", "handlers_that_call", "interrupted_loop", "storm_on"]


def _reopen(path: str, provider: NonceProvider) -> None:
    with SQLiteStore(path, timeout=60) as store:
        NonceProvider(store, KEY, unit="ns").next()


#: What is interrupted, but for draws and calls.
OPERATIONS: dict[str, Callable[[str, NonceProvider], object]] = {
    "reserve": lambda path, provider: provider.reserve(10),
    "raise_floor": lambda path, provider: provider.raise_floor(provider.last + 1),
    "last": lambda path, provider: provider.last,
    "open and close": _reopen,
}


def storm_on(path: str, what: str, times: int) -> dict[str, Any]:
    """Interrupt an operation `times` times; count what was left behind."""
    signal.signal(signal.SIGALRM, _interrupt)
    with SQLiteStore(path, timeout=60) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        last = max(provider.next(), provider.last)  # the reader's files are open now
        _reopen(path, provider)
        weather = Storm(store, path)
        weather.contended = what == "open and close"  # a thread may close a dropped one
        before = descriptors()
        weather.strike(lambda: OPERATIONS[what](path, provider), times)
        deadline = time.monotonic() + 3  # a dropped store is closed by a thread
        while descriptors() > before and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        leaked = descriptors() - before
        return {
            "struck": weather.struck,
            "wrong": dict(Counter(weather.wrong)),
            "leaked": leaked,
            "goes on": provider.next() > last,
        }


def handlers_that_call(path: str, log: str, signals: int) -> dict[str, Any]:
    """Draw and call without end, while a signal handler does the same, `signals` times, at random moments.

    Returns:
        how often the handler was served or refused, by which error, and the calls that are left over.
    """
    chance, said = random.Random(5), Counter[str]()
    store = SQLiteStore(path, timeout=60)
    writer = Log(Path(log))
    provider = NonceProvider(store, "drawn", unit="ns")
    gates = {
        name: CallGate(store, name, min_interval=0.0, unit="ns", timeout=30)
        for name in ("same", "other")
    }
    provider.next()

    def draw() -> None:
        call = monotonic_ns()
        value = provider.next()
        writer.add(Operation(call, monotonic_ns(), value))

    def enter(name: str) -> None:
        with gates[name].call("Balance") as call:
            assert call.nonce > 0

    def handle(*_: object) -> None:
        what = chance.choice(["draw", "same", "other", "last"])
        try:
            if what == "draw":
                draw()
            elif what == "last":
                assert provider.last > 0
            else:
                enter(what)
            said[f"{what}: served"] += 1
        except NonceError as error:
            said[f"{what}: {type(error).__name__}"] += 1

    signal.signal(signal.SIGALRM, handle)
    while sum(said.values()) < signals:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 400e-6))
        draw()
        assert provider.last > 0
        with suppress(NonceError):
            enter("same")
    signal.setitimer(signal.ITIMER_REAL, 0)
    for name in gates:
        enter(name)
    states = [store.read(gate.key) for gate in gates.values()]
    session = store.session()
    left = len(session.live) + len(session.callers)
    left += sum(len(state.queue) + (state.running is not None) for state in states)
    store.close()
    return {"said": said, "left": left}


def interrupted_loop(path: str, method: str) -> str:
    """Wait for a turn, or hold it, on an event loop, until Ctrl-C; return how the loop ended."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    gate = CallGate(SQLiteStore(path), KEY, min_interval=0.0, timeout=600)

    async def main() -> None:
        say("ready")
        async with gate.call(method):
            say("in")
            await asyncio.sleep(600)

    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        return "interrupted"
    return "ended"
