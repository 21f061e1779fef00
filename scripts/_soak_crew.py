"""The processes of a soak's storm: what each kind of them does, and how they are made to suffer."""

from __future__ import annotations

import asyncio
import os
import queue
import random
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from _soak_scene import GATED, KEY, PATIENCE, SCALE, Canary, Scene

from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.gate import CallGate
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.testing import ScaledClock
from tests.support.checker import Log, Operation

__all__ = ["KINDS", "Crew", "hold_court", "survive"]

#: Of the afflictions, the part that are stops, and the part that are gentle ends; all others kill.
_STOPS: Final = 0.1
_GENTLE: Final = 0.1

#: Seconds in which a process ends that was asked to: a guard.
_FAREWELL: Final = 20.0


# --- kinds of processes; none returns, but by an exception


def draw(scene: Scene, number: int) -> None:
    """Draw nonces, one after the other; open the store anew every 5,000."""
    log = scene.log("nonces", number)
    while True:
        with scene.store() as store:
            provider = NonceProvider(store, KEY, unit="ns")
            scene.patiently(partial(log.draw, provider, 5_000))


def draw_in_threads(scene: Scene, number: int) -> None:
    """Draw nonces in four threads that share a provider."""
    with scene.store() as store:
        provider = NonceProvider(store, KEY, unit="ns")

        def work(log: Log) -> None:
            while True:
                scene.patiently(partial(log.draw, provider, 1_000))

        _beside(work, [scene.log("nonces", f"{number}-{n}") for n in range(4)])


def draw_under_interrupts(scene: Scene, number: int) -> None:
    """Draw nonces and make calls, each of them interrupted at a random moment of its time."""
    armed = False

    def strike(*_: object) -> None:
        nonlocal armed
        if armed:  # not where it is being dealt with
            armed = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, strike)
    log = scene.log("nonces", number)
    with scene.store() as store:
        provider = NonceProvider(store, KEY, unit="ns")
        gate = CallGate(store, GATED, unit="ns", min_interval=0.0, timeout=PATIENCE)
        while True:
            try:
                armed = True
                try:
                    _strike_within(0.0003)
                    log.draw(provider, 4)
                    _strike_within(0.002)
                    with gate.call("Balance"):
                        pass
                except StoreUnavailableError as error:
                    scene.met(error)
                armed = False
            except KeyboardInterrupt:
                scene.board["interrupts"] += 1


def _strike_within(seconds: float) -> None:
    moment = random.uniform(1e-6, seconds)  # noqa: S311 - no secret
    signal.setitimer(signal.ITIMER_REAL, moment)


def call_in_tasks(scene: Scene, number: int) -> None:
    """Make calls in four tasks, of which one is cancelled now and then."""
    canary = Canary(scene)
    log = scene.log("calls", number)

    async def work(gate: CallGate) -> None:
        while True:
            wanted = time.monotonic_ns()
            try:
                async with gate.call("Balance") as call:
                    log.add(Operation(wanted, time.monotonic_ns(), call.nonce))
                    with canary:
                        await asyncio.sleep(0.001)
            except StoreUnavailableError as error:
                scene.met(error)
                await asyncio.sleep(0.01)

    async def all_of_them(gate: CallGate) -> None:
        tasks = [asyncio.create_task(work(gate)) for _ in range(4)]
        while True:
            await asyncio.sleep(0.2)
            victim = random.randrange(4)  # noqa: S311 - no secret
            tasks[victim].cancel()
            await asyncio.wait([tasks[victim]])
            if not tasks[victim].cancelled():
                tasks[victim].result()
            tasks[victim] = asyncio.create_task(work(gate))

    with scene.store() as store:
        gate = CallGate(store, GATED, unit="ns", min_interval=0.0, timeout=PATIENCE)
        asyncio.run(all_of_them(gate))


class Client(API):
    """A krakenex client that writes down each call that was answered without an error."""

    log: Log

    def _query(
        self, urlpath: str, data: Any, headers: Any = None, timeout: Any = None
    ) -> Any:
        nonce, begin = int(data["nonce"]), time.monotonic_ns()
        reply = super()._query(urlpath, data, headers, timeout)
        value = -nonce if reply["error"] else nonce
        self.log.add(Operation(begin, time.monotonic_ns(), value))
        return reply


def trade(scene: Scene, number: int) -> None:
    """Ask the exchange through krakenex, in two threads."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # to close under a call is to end it
    clock = ScaledClock(SCALE)
    store = scene.patiently(
        lambda: SQLiteStore(scene.trades, timeout=PATIENCE, clock=clock)
    )

    def work(log: Log) -> None:
        client = Client(*scene.account, store=store, tier="pro", gate_timeout=3600)
        client.uri, client.log = scene.url, log
        while True:
            scene.patiently(partial(client.query_private, "Balance"))

    _beside(work, [scene.log("trades", f"{number}-{n}") for n in range(2)])


def _beside(work: Callable[[Log], None], logs: list[Log]) -> None:
    """Do `work` in threads until one of them fails."""
    failed: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def one(log: Log) -> None:
        try:
            work(log)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.put(
                error
            )  # unless SIGTERM has ended the wait: then the store was closed under this thread

    for log in logs:
        threading.Thread(target=one, args=(log,), daemon=True).start()
    raise failed.get()


#: What is done by the processes of a crew, in turn.
KINDS: Final = [
    draw,
    draw_in_threads,
    draw,
    draw_under_interrupts,
    call_in_tasks,
    trade,
    call_in_tasks,
    trade,
]


def survive(scene: Scene) -> None:
    """Draw nonces and make calls, spared by the storm, and tell after each round what this process has come to hold."""
    board, rounds = scene.board, 0
    canary, log = Canary(scene), scene.log("nonces", "survivor")
    store = scene.store()
    provider = NonceProvider(store, KEY, unit="ns")
    gate = CallGate(store, GATED, unit="ns", min_interval=0.0, timeout=PATIENCE)
    while True:
        while not board["round"] or board["round"] == rounds:
            time.sleep(0.01)
        log.close()
        log = scene.log("nonces", f"survivor-{rounds}")
        board["begun"] = rounds + 1
        while board["round"]:
            try:
                log.draw(provider, 50)
                with gate.call("Ledgers"), canary:
                    pass
            except StoreUnavailableError as error:
                scene.met(error)
                time.sleep(0.01)
        rounds += 1
        board["descriptors"] = len(os.listdir("/proc/self/fd"))
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        board["memory"] = int(pages) * resource.getpagesize()
        board["rested"] = rounds


def hold_court(work: Callable[[], None]) -> int:
    """Start a process that does `work`, which is not to return; SIGTERM ends it as an exit does. Return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        signal.signal(signal.SIGTERM, _leave)
        random.seed()
        work()
    except SystemExit:
        status = 0
    except BaseException as error:  # noqa: BLE001 - a child of ours must not go on as its parent
        print(f"a process failed: {error!r}", flush=True)
    finally:
        os._exit(status)


def _print_nothing(_: object) -> None:
    """Stand in for the hook that prints what a finalizer raised."""


def _leave(*_: object) -> NoReturn:
    sys.unraisablehook = _print_nothing  # an exit may find an event loop half made
    # An interrupt would replace the exit, unless it strikes before this line has done its work.
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    raise SystemExit


def _ends(pid: int) -> bool:
    """Wait for the end of a process, for as long as it may take; it stays to be waited for."""
    deadline = time.monotonic() + _FAREWELL
    look = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, pid, look) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class Crew:
    """The processes of a storm, each started anew when it was made to end.

    Args:
        scene: where they work.
        first: a number that none of them had before.

    Attributes:
        counts: how many were killed, terminated, stopped; how many failed.
    """

    def __init__(self, scene: Scene, counts: dict[str, int]) -> None:
        self._scene = scene
        self.counts = counts
        self._pids: list[tuple[int, int]] = []  # pid, kind
        self._stopped: list[tuple[float, int]] = []  # until, pid
        for kind in range(len(KINDS)):
            self._start(kind)

    def _start(self, kind: int) -> None:
        self.counts["started"] += 1
        number = self.counts["started"]
        pid = hold_court(lambda: KINDS[kind](self._scene, number))
        self._pids.append((pid, kind))

    def afflict(self) -> None:
        """Let go on who was stopped for long enough; kill one, terminate one, or stop one."""
        now = time.monotonic()
        self._resume(now)
        pid, kind = victim = random.choice(self._pids)  # noqa: S311 - no secret
        chance = random.random()  # noqa: S311 - no secret
        if chance < _STOPS:
            self.counts["stopped"] += 1
            os.kill(pid, signal.SIGSTOP)
            self._stopped.append((now + random.uniform(0.01, 1.0), pid))  # noqa: S311 - no secret
            return
        gently = chance < _STOPS + _GENTLE
        self._end(victim, gently=gently)
        self._start(kind)

    def _resume(self, now: float) -> None:
        """Let go on who was stopped for long enough."""
        for until, pid in list(self._stopped):
            if until <= now:
                self._stopped.remove((until, pid))
                os.kill(pid, signal.SIGCONT)

    def _end(self, victim: tuple[int, int], *, gently: bool = False) -> None:
        pid, _ = victim
        self._pids.remove(victim)
        if gently:
            self._resume(
                float("inf")
            )  # whoever ends waits for the lock that a stopped one may hold
        self._stopped = [each for each in self._stopped if each[1] != pid]
        os.kill(pid, signal.SIGTERM if gently else signal.SIGKILL)
        if gently and not _ends(pid):
            # Its exit was replaced by an interrupt, or dropped since it struck in a finalizer.
            self.counts["unheard"] += 1
            gently = False
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        well = status in (0, signal.SIGTERM) if gently else status == signal.SIGKILL
        self.counts["terminated" if gently else "killed"] += 1
        self.counts["failed"] += not well

    def end(self) -> None:
        """Kill all."""
        while self._pids:
            self._end(self._pids[-1])
