"""The processes of a benchmark at one gate: what their waiting costs, and how long a fault holds up the next."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from _bench_table import Row, Size

from persistent_nonce import CallGate, SQLiteStore

KEY: Final = "an API key"

#: Seconds for which a benchmark waits for one of its own processes.
GUARD: Final = 90.0

_SPAWN: Final = multiprocessing.get_context("spawn")


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


# --- waiting: CPU time, and who dies or stops


def wait_once(path: str, pipe: Any) -> None:
    """Whenever told, make one call: send when it began, and the share of a core that the wait took; end it if told."""
    # Some of these processes are to die: whoever finds that says nothing.
    logging.getLogger("persistent_nonce").setLevel(logging.ERROR)
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


def waiting(directory: Path, size: Size) -> list[Row]:
    """Have 4 processes wait for one call; the CPU time of each, the nearest first, as a share of a core."""
    store, seconds = SQLiteStore(directory / "w.db"), size.calling / 2
    gate = CallGate(store, KEY, min_interval=0.0)
    found: list[list[float]] = [[] for _ in range(4)]
    with started(wait_once, 4, str(store.path)) as workers:
        for worker in workers:
            worker.answer()
        for _ in range(max(1, size.rounds // 5)):
            with gate.call("Ledgers"):
                for place, worker in enumerate(workers, 1):
                    worker.ask()
                    queue_of(store, gate.key, place)
                time.sleep(seconds)
            for worker, taken in zip(workers, found, strict=True):
                taken.append(worker.answer()[1] * 100)
                worker.ask()
                worker.answer()
    store.close()
    return [
        Row(
            f"CPU of place {place} in the queue",
            statistics.median(taken),
            "% of a core",
            goal="≤ 6" if place == 1 else "≤ 1",
        )
        for place, taken in enumerate(found, 1)
    ]


def faults(directory: Path, size: Size) -> list[Row]:
    """Measure how long the next call waits after a fault of the one before it."""
    found: dict[str, list[float]] = {}
    for number in range(max(1, size.rounds // 2)):
        for what in ("holder killed", "waiter killed", "waiter stopped"):
            with SQLiteStore(directory / f"{what} {number}.db") as store:
                found.setdefault(what, []).append(delay_after(what, store) * 1e3)
    return [
        Row(
            f"{what}: until the next is in",
            statistics.median(delays),
            "ms",
            note=f"{max(delays):.0f} ms at worst",
        )
        for what, delays in found.items()
    ]


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


def release(workers: list[Worker], seconds: float) -> tuple[float, float]:
    """Let them open their stores, one after the other, then work from one moment to another; return the two."""
    for worker in workers:
        worker.ask()
        worker.answer()
    begin = time.monotonic() + 0.1
    for worker in workers:
        worker.pipe.send((begin, begin + seconds))
    return begin, begin + seconds


def together(pipe: Any) -> tuple[float, float]:
    """Be ready, wait for the moment to begin, and return it with the one to end at."""
    pipe.send("ready")
    begin, end = pipe.recv()
    time.sleep(max(0.0, begin - time.monotonic()))
    return begin, end


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
