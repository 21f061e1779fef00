#!/usr/bin/env python3
"""Compare this library with what people use instead, in the same run and side by side.

A baseline, not a gate: the figures are of this machine as it is now, and no test reads them. What is compared takes
turns in rounds, and each figure is a median over the rounds, so that a busy machine slows all of it alike.

    python -m pip install --group bench && python scripts/bench.py [SECTION ...] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import filelock

from persistent_nonce import CallGate, NonceProvider, SQLiteStore

KEY: Final = "an API key"
SPAWN: Final = multiprocessing.get_context("spawn")

#: Seconds for which a benchmark waits for one of its own processes.
GUARD: Final = 60.0

Figures = dict[str, Any]


def environment(directory: Path) -> Figures:
    """Return what the figures depend on."""
    command = ["stat", "--file-system", "--format=%T", str(directory)]
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "sqlite": sqlite3.sqlite_version,
        "file system": subprocess.run(  # noqa: S603 - of this script's own words
            command, capture_output=True, text=True, check=False
        ).stdout.strip(),
        **{name: installed(name) for name in ("filelock", "diskcache")},
    }


def installed(name: str) -> str:
    """Return the version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


# --- speed: one nonce, one passage


def opened(path: Path) -> tuple[sqlite3.Connection, Callable[[], object]]:
    """Return a kept connection, and one update on it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE counter (value INTEGER)")
    connection.execute("INSERT INTO counter VALUES (0)")
    return connection, lambda: connection.execute(
        "UPDATE counter SET value = value + 1"
    )


def commit_on(path: Path) -> Callable[[], object]:
    """Return one WAL commit on a kept connection: what a nonce costs at least."""
    return opened(path)[1]


def transaction_on(path: Path) -> Callable[[], object]:
    """Return the same as a transaction that keeps others from writing between its reading and its writing."""
    connection, commit = opened(path)

    def transaction() -> None:
        connection.execute("BEGIN IMMEDIATE")
        commit()
        connection.execute("COMMIT")

    return transaction


def contestants(root: Path) -> dict[str, Callable[[], object]]:
    """Return what takes turns, each doing its work once a call, in a directory of its own."""

    def place(name: str) -> Path:
        directory = root / name
        directory.mkdir()
        return directory / "file"

    lock, locked_commit = filelock.FileLock(place("lock")), commit_on(place("locked"))

    def with_lock() -> None:
        with lock:
            locked_commit()

    gate = CallGate(SQLiteStore(place("gate")), KEY, min_interval=0.0, unit="ns")

    def passage() -> None:
        with gate.call("Balance"):
            pass

    found: dict[str, Callable[[], object]] = {
        "next()": NonceProvider(SQLiteStore(place("next")), KEY, unit="ns").next,
        "a WAL commit": commit_on(place("commit")),
        "a WAL transaction": transaction_on(place("transaction")),
        "FileLock + commit": with_lock,
        "a gate passage": passage,
    }
    if installed("diskcache")[0].isdigit():
        import diskcache  # noqa: PLC0415 - a dependency of this comparison only

        cache = diskcache.Cache(str(place("cache")))
        found["diskcache incr"] = lambda: cache.incr("key")
    return found


def speed(directory: Path, *, quick: bool) -> Figures:
    """Time them in turn; report medians in µs, and how fast ours is beside each."""
    taking_turns = contestants(directory)
    times: dict[str, list[float]] = {name: [] for name in taking_turns}
    operations, rounds = (100, 7) if quick else (400, 21)
    time.sleep(3.0)  # a directory that was just changed is looked at more closely
    for _ in range(rounds):
        for name, operation in taking_turns.items():
            begin = time.perf_counter()
            for _ in range(operations):
                operation()
            times[name].append((time.perf_counter() - begin) / operations)
    micros = {name: statistics.median(all_) * 1e6 for name, all_ in times.items()}
    ours = micros["next()"]
    figures: Figures = {f"{name}, µs": value for name, value in micros.items()}
    targets = {"a WAL commit": 0.4, "FileLock + commit": 3.0, "diskcache incr": 0.8}
    for name, target in targets.items():
        if name in micros:
            figures[f"speed of next() ÷ {name} (target ≥ {target})"] = (
                micros[name] / ours
            )
    figures["a passage in commits"] = micros["a gate passage"] / micros["a WAL commit"]
    return figures


# --- fairness: several processes, short calls


def call_on(  # a process
    path: str, how: str, begin: float, end: float, pipe: Any
) -> None:
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
            with started(call_on, 4, path, how, begin, begin + seconds) as pipes:
                counts, waits = zip(*(receive(pipe) for pipe in pipes), strict=True)
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
    with started(wait_once, 4, str(store.path)) as pipes:
        for pipe in pipes:
            receive(pipe)
        for _ in range(1 if quick else 3):
            with gate.call("Ledgers"):
                for place, pipe in enumerate(pipes, 1):
                    pipe.send(True)
                    queue_of(store, gate.key, place)
                time.sleep(seconds)
            for place, pipe in enumerate(pipes):
                found[place].append(receive(pipe)[1])
                pipe.send(True)
                receive(pipe)
    store.close()
    return {
        f"CPU of place {place} in the queue, % of a core": statistics.median(shares)
        * 100
        for place, shares in enumerate(found, 1)
    }


def faults(directory: Path, *, quick: bool) -> Figures:
    """How long the next call waits after a fault of the one before it, in ms: median and worst."""
    found: dict[str, list[float]] = {}
    for number in range(2 if quick else 8):
        for what in ("holder killed", "waiter killed", "waiter stopped"):
            store = SQLiteStore(directory / f"{number}{what[:8]}{what[-6]}.db")
            delay = delay_after(what, store)
            found.setdefault(what, []).append(delay * 1e3)
            store.close()
    return {
        f"{what}: next in after, ms": f"{statistics.median(delays):.0f} (worst {max(delays):.0f})"
        for what, delays in found.items()
    }


def delay_after(what: str, store: SQLiteStore) -> float:
    """Return how many seconds after a fault, or after the call it had to wait for, the next call began."""
    gate = CallGate(store, KEY, min_interval=0.0)
    with started(wait_once, 2, str(store.path)) as (victim, next_):
        pid, _ = receive(victim), receive(next_)
        pid = next(p.pid for p in multiprocessing.active_children() if p.name == "0")
        if what == "holder killed":
            victim.send(True)
            receive(victim)
            next_.send(True)
            queue_of(store, gate.key, 1)
            at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
        else:
            with gate.call("Ledgers"):
                for place, pipe in enumerate((victim, next_), 1):
                    pipe.send(True)
                    queue_of(store, gate.key, place)
                os.kill(pid, signal.SIGKILL if "killed" in what else signal.SIGSTOP)
                at = time.monotonic()
        return float(receive(next_)[0]) - at


# --- processes


@contextmanager
def started(
    target: Callable[..., None], count: int, *arguments: Any
) -> Iterator[list[Any]]:
    """Start processes, named by their numbers, each with a pipe; those left are killed."""
    pipes, processes = [], []
    try:
        for number in range(count):
            ours, theirs = SPAWN.Pipe()
            process = SPAWN.Process(
                target=target, args=(*arguments, theirs), name=str(number), daemon=True
            )
            process.start()
            pipes.append(ours)
            processes.append(process)
        yield pipes
    finally:
        for process in processes:
            process.kill()
            process.join()


def receive(pipe: Any) -> Any:
    """Return what a process sends, or raise TimeoutError."""
    if not pipe.poll(GUARD):
        raise TimeoutError("a process of this benchmark does not answer")
    return pipe.recv()


def queue_of(store: SQLiteStore, key: str, length: int) -> None:
    """Wait until so many calls wait."""
    while len(store.read(key).queue) < length:
        time.sleep(0.001)


SECTIONS: Final = {
    "speed": speed,
    "fairness": fairness,
    "waiting": waiting,
    "faults": faults,
}


def main() -> None:
    """Run the sections asked for, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--directory", default=None, help="where to make the files")
    asked = parser.parse_args()
    if unknown := set(asked.sections) - SECTIONS.keys():
        parser.error(f"no section {', '.join(sorted(unknown))}: {', '.join(SECTIONS)}")
    report: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(dir=asked.directory) as directory:
        report["environment"] = environment(Path(directory))
        show("environment", report["environment"], asked.json)
        for name in asked.sections or SECTIONS:
            place = Path(directory, name)
            place.mkdir()
            report[name] = SECTIONS[name](place, quick=asked.quick)
            show(name, report[name], asked.json)
    if asked.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print("\nA baseline of this machine, not a gate.")


def show(name: str, figures: Figures, silent: bool) -> None:
    """Print a section as a table."""
    if silent:
        return
    print(f"\n{name}", flush=True)
    for what, value in figures.items():
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        print(f"  {what:<58} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
