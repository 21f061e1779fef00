"""Several processes at one gate: how fair it is, what waiting costs, and how long a fault holds up the others.

Sections of `scripts/bench.py`, which runs them.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import filelock

from persistent_nonce import CallGate, SQLiteStore

KEY: Final = "an API key"

#: Seconds for which a benchmark waits for one of its own processes.
GUARD: Final = 60.0

logging.getLogger("persistent_nonce").setLevel(logging.ERROR)  # here they are to die

_SPAWN: Final = multiprocessing.get_context("spawn")

Figures = dict[str, Any]


class Worker(NamedTuple):
    """A process of a benchmark."""

    pid: int
    pipe: Any

    def ask(self) -> None:
        """Let it go on."""
        self.pipe.send(True)

    def answer(self) -> Any:
        """Return what it sends, or raise TimeoutError."""
        if not self.pipe.poll(GUARD):
            raise TimeoutError("a process of this benchmark does not answer")
        return self.pipe.recv()


# --- fairness: several processes, short calls


def call_on(path: str, how: str, begin: float, end: float, pipe: Any) -> None:
    """Make calls of 20 ms from `begin` to `end`; send how many, and the longest wait."""
    enter: Callable[[], AbstractContextManager[Any]]
    if how == "gate":
        gate = CallGate(SQLiteStore(path), KEY, min_interval=0.0)
        enter = lambda: gate.call("Balance")  # noqa: E731 - a choice of two
    else:
        lock = filelock.FileLock(f"{path}.polled")
        enter = lambda: lock  # noqa: E731 - as above
    time.sleep(max(0.0, begin - time.monotonic()))
    calls, longest = 0, 0.0
    while (wanted := time.monotonic()) < end:
        with enter():
            longest = max(longest, time.monotonic() - wanted)
            calls += 1
            time.sleep(0.02)
    pipe.send((calls, longest))


def fairness(directory: Path, *, quick: bool) -> Figures:
    """4 processes with calls of 20 ms: shares, use of the ideal rate, longest wait; a polled FileLock beside it."""
    seconds, rounds = (2.0, 1) if quick else (6.0, 3)
    found: dict[str, list[tuple[list[int], float]]] = {
        "gate": [],
        "polled FileLock": [],
    }
    for number in range(rounds):
        for how, results in found.items():
            begin = time.monotonic() + 2.0  # all have begun by then
            path = str(directory / f"{number}.db")
            with started(call_on, 4, path, how, begin, begin + seconds) as workers:
                answers = [worker.answer() for worker in workers]
            counts, waits = zip(*answers, strict=True)
            results.append((sorted(counts), max(waits)))
    figures: Figures = {}
    for how, results in found.items():
        ratios = [shares[0] / shares[-1] for shares, _ in results]
        rates = [sum(shares) * 0.02 / seconds for shares, _ in results]
        figures[f"{how}: shares"] = " · ".join(str(shares) for shares, _ in results)
        figures[f"{how}: smallest ÷ largest share"] = statistics.median(ratios)
        figures[f"{how}: use of the ideal rate"] = statistics.median(rates)
        figures[f"{how}: longest wait, ms"] = max(wait for _, wait in results) * 1e3
    return figures


# --- waiting: CPU time, and who dies or stops


def wait_once(path: str, pipe: Any) -> None:
    """Whenever told, make one call: send when it began, and the share of a core that the wait took; end it if told."""
    gate = CallGate(SQLiteStore(path), KEY, min_interval=0.0, timeout=GUARD)
    with gate.call("Balance"):
        pass
    pipe.send("ready")
    while pipe.recv():
        wall, cpu = time.monotonic(), time.process_time()
        with gate.call("Balance"):
            now = time.monotonic()
            pipe.send((now, (time.process_time() - cpu) / max(now - wall, 1e-9)))
            pipe.recv()
        pipe.send("out")


def waiting(directory: Path, *, quick: bool) -> Figures:
    """CPU time of those who wait for one call, the nearest first, as a share of a core."""
    store, seconds = SQLiteStore(directory / "w.db"), 1.0 if quick else 4.0
    gate = CallGate(store, KEY, min_interval=0.0)
    found: list[list[float]] = [[] for _ in range(4)]
    with started(wait_once, 4, str(store.path)) as workers:
        for worker in workers:
            worker.answer()
        for _ in range(1 if quick else 3):
            with gate.call("Ledgers"):
                for place, worker in enumerate(workers, 1):
                    worker.ask()
                    queue_of(store, gate.key, place)
                time.sleep(seconds)
            for worker, shares in zip(workers, found, strict=True):
                shares.append(worker.answer()[1] * 100)
                worker.ask()
                worker.answer()
    store.close()
    return {
        f"CPU of place {place} in the queue, % of a core": statistics.median(shares)
        for place, shares in enumerate(found, 1)
    }


def faults(directory: Path, *, quick: bool) -> Figures:
    """How long the next call waits after a fault of the one before it, in ms: median and worst."""
    found: dict[str, list[float]] = {}
    for number in range(2 if quick else 8):
        for what in ("holder killed", "waiter killed", "waiter stopped"):
            with SQLiteStore(directory / f"{what} {number}.db") as store:
                found.setdefault(what, []).append(delay_after(what, store) * 1e3)
    return {
        f"{what}: next in after, ms": f"{statistics.median(delays):.0f} (worst {max(delays):.0f})"
        for what, delays in found.items()
    }


def delay_after(what: str, store: SQLiteStore) -> float:
    """Return how many seconds after a fault, or after the call it had to wait for, the next call began."""
    gate = CallGate(store, KEY, min_interval=0.0)
    with started(wait_once, 2, str(store.path)) as (victim, next_):
        for worker in (victim, next_):
            worker.answer()
        if what == "holder killed":
            victim.ask()
            victim.answer()
            next_.ask()
            queue_of(store, gate.key, 1)
            at = time.monotonic()
            os.kill(victim.pid, signal.SIGKILL)
        else:
            with gate.call("Ledgers"):
                for place, worker in enumerate((victim, next_), 1):
                    worker.ask()
                    queue_of(store, gate.key, place)
                stop = signal.SIGKILL if what == "waiter killed" else signal.SIGSTOP
                os.kill(victim.pid, stop)
                at = time.monotonic()
        return float(next_.answer()[0]) - at


# --- processes


@contextmanager
def started(
    target: Callable[..., None], count: int, *arguments: Any
) -> Iterator[list[Worker]]:
    """Start processes, each with a pipe; those left are killed."""
    workers, processes = [], []
    try:
        for _ in range(count):
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(
                target=target, args=(*arguments, theirs), daemon=True
            )
            process.start()
            processes.append(process)
            workers.append(Worker(process.pid or 0, ours))
        yield workers
    finally:
        for process in processes:
            process.kill()
            process.join()


def queue_of(store: SQLiteStore, key: str, length: int) -> None:
    """Wait until so many calls wait."""
    while len(store.read(key).queue) < length:
        time.sleep(0.001)
