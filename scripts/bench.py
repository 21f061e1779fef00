#!/usr/bin/env python3
"""Compare this library with what people use instead, in the same run and side by side.

A baseline, not a gate: the figures are of this machine as it is now, and no test reads them. What is compared takes
turns in rounds, and each figure is a median over the rounds, so that a busy machine slows all of it alike.

    python -m pip install --group bench && python scripts/bench.py [SECTION ...] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import filelock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _contention import KEY, Figures, fairness, faults, waiting

from persistent_nonce import CallGate, NonceProvider, SQLiteStore


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
    targets = {
        "a WAL commit": 0.4,
        "FileLock + commit": 3.0,
        "diskcache incr": 0.8,
    }
    for name, target in targets.items():
        if name in micros:
            figures[f"speed of next() ÷ {name} (target ≥ {target})"] = (
                micros[name] / ours
            )
    figures["speed of next() ÷ a WAL transaction"] = micros["a WAL transaction"] / ours
    figures["a passage in commits"] = micros["a gate passage"] / micros["a WAL commit"]
    return figures


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
    main()
