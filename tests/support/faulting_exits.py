"""Programs that end while a call of theirs is in flight or waits, each in another way."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from persistent_nonce import CallGate, NonceError, NonceProvider, SQLiteStore
from tests.support.checker import Log
from tests.support.workers import KEY, say

__all__ = ["ENDS", "draw_to_the_end", "end", "end_waiting", "late_hook"]

#: Longer than any test.
NEVER: Final = 600.0

_kept: Final[list[object]] = []


def _hold(gate: CallGate, seconds: float = NEVER) -> None:
    with gate.call("AddOrder"):
        say("in")
        time.sleep(seconds)


def _os_exit(gate: CallGate) -> None:
    with gate.call("AddOrder"):
        os._exit(0)


def _sys_exit(gate: CallGate) -> None:
    with gate.call("AddOrder"):
        sys.exit()


def _error(gate: CallGate) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process
    with gate.call("AddOrder"):
        raise OSError("the connection")


def _terminated(gate: CallGate) -> None:
    with gate.call("AddOrder"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(NEVER)


def _in_thread(work: Callable[[], None], *, daemon: bool) -> None:
    """Start a thread, and return once it is in its call."""
    inside = threading.Event()

    def begin() -> None:
        inside.set()
        with suppress(NonceError):
            work()

    threading.Thread(target=begin, daemon=daemon).start()
    inside.wait()


def _daemon(gate: CallGate) -> None:
    entered = threading.Event()

    def hold() -> None:
        with gate.call("AddOrder"):
            entered.set()
            time.sleep(NEVER)

    _in_thread(hold, daemon=True)
    entered.wait()


def _thread(gate: CallGate) -> None:
    entered = threading.Event()

    def hold() -> None:
        with gate.call("AddOrder"):
            entered.set()
            time.sleep(0.1)  # the main thread has come to its end by then

    _in_thread(hold, daemon=False)
    entered.wait()


def _executor(gate: CallGate) -> None:
    ThreadPoolExecutor(1).submit(_hold, gate, 0.1)


def _loop(gate: CallGate) -> None:
    entered = threading.Event()

    async def main() -> None:
        async with gate.call("AddOrder"):
            entered.set()
            await asyncio.sleep(NEVER)

    _in_thread(lambda: asyncio.run(main()), daemon=True)
    entered.wait()


def _generator(gate: CallGate) -> None:
    def pages() -> Iterator[int]:
        with gate.call("AddOrder"):
            yield 1
            yield 2

    _kept.append(generator := pages())
    next(generator)


def _object(gate: CallGate) -> None:
    _kept.append(call := gate.call("AddOrder"))
    call.__enter__()


def _hook(gate: CallGate) -> None:
    atexit.register(
        lambda: _hold(gate, 0.0)
    )  # before that of the library, which came first


#: How a program ends in its call, its status then, and how the call is recorded.
ENDS: Final[dict[str, tuple[Callable[[CallGate], None], int, str]]] = {
    "os._exit": (_os_exit, 0, "interrupted"),
    "sys.exit": (_sys_exit, 0, "unknown"),
    "an error": (_error, 1, "unknown"),
    "SIGTERM": (_terminated, -signal.SIGTERM, "interrupted"),
    "a daemon thread": (_daemon, 0, "interrupted"),
    "a thread": (_thread, 0, "ok"),
    "an executor": (_executor, 0, "ok"),
    "a loop of a daemon thread": (_loop, 0, "interrupted"),
    "a generator": (_generator, 0, "interrupted"),
    "an object": (_object, 0, "interrupted"),
    "an exit hook": (_hook, 0, "ok"),
}


def end(path: str, how: str) -> None:
    """Have a call in flight, and come to an end."""
    store = SQLiteStore(path, timeout=60)
    _kept.append(store)
    ENDS[how][0](CallGate(store, KEY, min_interval=0.0))


def end_waiting(path: str, how: str) -> None:
    """Wait for a turn, and come to an end."""
    store = SQLiteStore(path, timeout=60)
    gate = CallGate(store, KEY, min_interval=0.0, timeout=NEVER)
    _in_thread(lambda: _hold(gate), daemon=True)
    while not any(
        call.session == store.session().name for call in store.read(gate.key).queue
    ):
        time.sleep(0.001)
    if how == "os._exit":
        os._exit(0)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)


def late_hook(path: str) -> None:
    """Draw in a hook that runs after the library's own, which has closed the store; say what came of it."""
    store = SQLiteStore(path)
    nonces = NonceProvider(store, KEY)
    say(str(nonces.next()))

    def draw() -> None:
        try:
            say(str(nonces.next()))
        except NonceError as error:
            say(type(error).__name__)

    store_hook = sys.modules["persistent_nonce.stores.sqlite"]._close_all
    atexit.unregister(store_hook)
    atexit.register(draw)
    atexit.register(store_hook)


def draw_to_the_end(path: str, log: str, threads: int) -> None:
    """Come to an end while daemon threads draw."""
    store = SQLiteStore(path, timeout=60)
    provider = NonceProvider(store, KEY, unit="ns")
    drawn = threading.Barrier(threads + 1)

    def draw(number: int) -> None:
        writer = Log(Path(f"{log}-{number}.log"))
        writer.draw(provider, 20)
        drawn.wait()
        with suppress(NonceError):  # at the end the store is closed
            writer.draw(provider, 1_000_000)

    for number in range(threads):
        threading.Thread(target=draw, args=(number,), daemon=True).start()
    drawn.wait()
