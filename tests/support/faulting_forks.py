"""Programs that fork around their calls: in one, while a thread waits for one, from a handler, by multiprocessing."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.errors import ForkedCallError, NonceError
from persistent_nonce.provider import NonceProvider
from tests.support.callers import GUARD, until
from tests.support.workers import KEY, say

__all__ = [
    "fork_in_calls",
    "fork_while_waiting",
    "pool_of_forks",
    "stay_with_a_child",
    "wait_and_fork_in_a_handler",
]

#: The seconds a child waits for a turn that it cannot have.
SHORT: Final = 0.05


def child_of(work: Callable[[], object]) -> str:
    """Fork; return what `work` returned in the child, or the name of its error, or "hung"."""
    output, write = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            os.write(write, _said(work).encode())
        os._exit(0)
    os.close(write)
    ready = select.select([output], [], [], GUARD)[0]
    if not ready:
        os.kill(pid, signal.SIGKILL)
    said = os.read(output, 65_536).decode()
    os.close(output)
    os.waitpid(pid, 0)
    return said if ready else "hung"


def _said(work: Callable[[], object]) -> str:
    try:
        return str(work())
    except BaseException as error:  # noqa: BLE001 - its name is the result
        return type(error).__name__


@contextmanager
def busy(store: SQLiteStore) -> Iterator[list[int]]:
    """Have two threads inside the store all the time; yield the nonces they take, of a key of their own."""
    provider, end, drawn = NonceProvider(store, "busy", unit="ns"), False, list[int]()

    def draw() -> None:
        while not end:
            drawn.append(provider.next())

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield drawn
    finally:
        end = True
        for thread in threads:
            thread.join()


def fork_in_calls(path: str, rounds: int) -> dict[str, Any]:
    """Fork in each of `rounds` calls, beside threads inside the store; return what the children said, and the nonces.

    A child tries to use the call, to end it, to make one of its own, and takes a nonce of another key.
    """
    store = SQLiteStore(path, timeout=60)
    gate = CallGate(store, KEY, min_interval=0.0, unit="ns")
    beside = NonceProvider(store, "busy", unit="ns")
    said, kept = [], 0

    def use() -> str:
        uses: list[Callable[[], object]] = [
            lambda: call.nonce,
            call.not_sent,
            lambda: call.__exit__(None, None, None),
            lambda: gate.call("Balance", timeout=SHORT).__enter__(),
        ]
        return " ".join([*map(_said, uses), str(beside.next())])

    with busy(store) as drawn:
        for _ in range(rounds):
            with gate.call("AddOrder") as call:
                said.append(child_of(use).split())
                running = store.read(gate.key).running
                kept += running is not None and running.nonce == call.nonce
    with gate.call("Balance"):
        pass
    store.close()
    return {"said": said, "kept": kept, "drawn": drawn}


def fork_while_waiting(path: str, rounds: int) -> dict[str, Any]:
    """Fork while a thread waits for its turn and another one is in its call; return what the children said."""
    store = SQLiteStore(path, timeout=60)
    gate = CallGate(store, KEY, min_interval=0.0, unit="ns", timeout=GUARD)
    said, served = [], []

    def wait() -> None:
        with gate.call("Ledgers") as call:
            served.append(call.nonce)

    def use() -> str:
        try:
            with gate.call("Balance", timeout=SHORT):
                return "in"
        except NonceError as error:
            return type(error).__name__

    for _ in range(rounds):
        with gate.call("AddOrder"):
            thread = threading.Thread(target=wait)
            thread.start()
            until(lambda: len(store.read(gate.key).queue) == 1, "a thread to wait")
            said.append(child_of(use))
            waiting = len(store.read(gate.key).queue)
            said.append(str(waiting))
        thread.join(GUARD)
    state = store.read(gate.key)
    left = len(state.queue) + (state.running is not None) + len(store.session().live)
    store.close()
    return {"said": said, "served": served, "left": left}


def wait_and_fork_in_a_handler(path: str, how: str) -> list[object]:
    """Fork from a signal handler while this thread waits for its turn; the child's copy of the wait goes on, or ends.

    Returns:
        what became of the child, and whether the call was still this process's own when the child was through.
    """
    store = SQLiteStore(path, timeout=60)
    gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
    output, write = os.pipe()
    start, tell = os.pipe()
    parent, children = os.getpid(), list[int]()

    def handler(*_: object) -> None:
        children.append(os.fork())
        if not children[-1] and how == "raises":
            os.read(start, 1)  # its parent is in its call by then
            raise SystemExit
        if children[-1]:
            say("forked")

    signal.signal(signal.SIGUSR1, handler)
    say("ready")
    try:
        with gate.call("AddOrder") as call:
            nonce = call.nonce  # an error in the child
            os.write(tell, b"x")
            os.waitpid(children[0], 0)
            running = store.read(gate.key).running
    except (ForkedCallError, SystemExit) as error:
        if os.getpid() == parent:
            raise
        os.write(write, type(error).__name__.encode())
    finally:
        if os.getpid() != parent:
            os._exit(0)
    kept = running is not None and running.nonce == nonce
    return [os.read(output, 100).decode(), kept, store.calls()[0].outcome]


def stay_with_a_child(path: str) -> None:
    """Be in a call, with a forked child that lives on."""
    gate = CallGate(SQLiteStore(path), KEY)
    with gate.call("AddOrder"):
        if os.fork():
            say("forked")
        time.sleep(600)


# --- multiprocessing

_inherited: dict[str, Any] = {}


def _take(count: int) -> list[int]:
    """Take nonces, and one in a call, in a worker that has inherited everything from its parent."""
    gate, provider = _inherited["gate"], _inherited["provider"]
    drawn = [provider.next() for _ in range(count)]
    with gate.call("Balance"):
        pass
    return drawn


def pool_of_forks(path: str, workers: int, tasks: int) -> dict[str, Any]:
    """Take nonces in the forked workers of a pool, and beside them, by one store that all have inherited."""
    store = SQLiteStore(path, timeout=60)
    provider = NonceProvider(store, "drawn", unit="ns")
    gate = CallGate(store, KEY, min_interval=0.0, unit="ns")
    _inherited.update(gate=gate, provider=provider)
    provider.next()
    store.session()
    context = multiprocessing.get_context("fork")
    with busy(store):
        with gate.call("AddOrder"):
            pool = context.Pool(workers)
            waiting = [pool.apply_async(_take, (20,)) for _ in range(tasks)]
            until(lambda: bool(store.read(gate.key).queue), "a worker to wait")
            own = [provider.next() for _ in range(100)]
            early = sum(task.ready() for task in waiting)
        theirs = [task.get(GUARD) for task in waiting]
        pool.close()
        pool.join()
    left = len(store.read(gate.key).queue)
    store.close()
    return {"own": own, "theirs": theirs, "early": early, "left": left}
