"""The gate under calls of 20 ms: how fair it is, how much of the ideal rate is used, and how fast it is handed over.

Beside it stands what people do instead, and the least that a call can cost which two commits keep: processes that hand
each other a byte through a pipe, and know nothing else of each other.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import filelock
from _bench_contestants import wal_commit
from _bench_table import Row, Size, of
from _contention import GUARD, KEY, release, started, together

from persistent_nonce import CallGate, SQLiteStore

__all__ = ["fairness"]

#: Seconds that a call takes.
_CALL: Final = 0.02

#: Processes, where nothing else is said.
_CREW: Final = 4


class Shares(NamedTuple):
    """What came of processes that called for a while."""

    calls: list[int]  # of each process, the fewest first
    use: float  # of the ideal rate, at which one call of 20 ms follows the other
    held: float  # the share of the time in which a call was in flight
    longest: float  # seconds that a call waited
    handed: list[
        float
    ]  # seconds from a call's end to the next one's begin, in another process


#: What lets a call begin, and is told when it ends.
Entrance = Callable[[], AbstractContextManager[Any]]


def _gate(path: str, stack: ExitStack) -> Entrance:
    store = stack.enter_context(SQLiteStore(path, timeout=GUARD))
    gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
    return lambda: gate.call("Balance")


def _polled(path: str, stack: ExitStack) -> Entrance:
    del stack  # the file is opened for each
    lock = filelock.FileLock(f"{path}.polled")
    return lambda: lock


def _token(path: str, stack: ExitStack) -> Entrance:
    pipe = _pipe(path, stack)
    commit = wal_commit(Path(f"{path}.{os.getpid()}"), stack)

    @contextmanager
    def enter() -> Iterator[None]:
        os.read(pipe, 1)
        commit()
        yield
        commit()
        os.write(pipe, b"x")

    return enter


def _pipe(path: str, stack: ExitStack) -> int:
    """Open a pipe that has a name, for both."""
    pipe = os.open(f"{path}.pipe", os.O_RDWR)
    stack.callback(os.close, pipe)
    return pipe


_GATE: Final = "gate"
_LEAST: Final = "two commits and a pipe"
_ENTRANCES: Final[dict[str, Callable[[str, ExitStack], Entrance]]] = {
    _GATE: _gate,
    "polled FileLock": _polled,
    _LEAST: _token,
}


def call_on(path: str, how: str, pipe: Any) -> None:
    """Make calls of 20 ms from one moment to another; send when each began and ended, and the longest wait."""
    pipe.recv()
    with ExitStack() as stack:
        enter = _ENTRANCES[how](path, stack)
        begin, end = together(pipe)
        calls, longest = [], 0.0
        while (wanted := time.monotonic()) < end:
            with enter():
                entered = time.monotonic()
                longest = max(longest, entered - max(wanted, begin))
                time.sleep(_CALL)
                calls.append((entered, time.monotonic()))
        pipe.send((calls, longest))


def shares(path: Path, how: str, count: int, seconds: float) -> Shares:
    """Let processes call for so long."""
    with ExitStack() as stack:
        if how == _LEAST:
            os.mkfifo(f"{path}.pipe")
            os.write(_pipe(str(path), stack), b"x")
        workers = stack.enter_context(started(call_on, count, str(path), how))
        _, end = release(workers, seconds)
        answers = [worker.answer() for worker in workers]
    calls = sorted(
        (entered, left, number)
        for number, (made, _) in enumerate(answers)
        for entered, left in made
    )
    counts = sorted(len([c for c in made if c[0] < end]) for made, _ in answers)
    # Of a call over the end, only what lies before it.
    inside = [max(0.0, min(left, end) - entered) for entered, left, _ in calls]
    made = sum(part / (c[1] - c[0]) for part, c in zip(inside, calls, strict=True))
    return Shares(
        counts,
        made * _CALL / seconds,
        sum(inside) / seconds,
        max(longest for _, longest in answers),
        [b[0] - a[1] for a, b in pairwise(calls) if a[2] != b[2]],
    )


def fairness(directory: Path, size: Size) -> list[Row]:
    """Have 4 processes make calls of 20 ms, by the gate and by what is less; then other numbers of them."""
    found: dict[str, list[Shares]] = {how: [] for how in _ENTRANCES}
    for number in range(max(1, size.rounds // 5)):
        for how, results in found.items():
            path = directory / f"{how} {number}.db"
            results.append(shares(path, how, _CREW, size.calling))
    rows = [
        row
        for how, results in found.items()
        for row in _rows(f"{how}, {_CREW} processes", results, goals=how == _GATE)
    ]
    for count in size.processes:
        if count != _CREW:
            result = shares(directory / f"{count}.db", _GATE, count, size.calling)
            who = f"gate, {count} process{'es' if count > 1 else ''}"
            rows += _rows(who, [result], goals=False)
    return rows


def _rows(who: str, results: list[Shares], *, goals: bool) -> list[Row]:
    handed = [seconds * 1e3 for result in results for seconds in result.handed]
    counts = " · ".join(f"{r.calls[0]} to {r.calls[-1]}" for r in results)
    use = statistics.median(result.use for result in results)
    held = statistics.median(result.held for result in results)
    fair = statistics.median(r.calls[0] / max(1, r.calls[-1]) for r in results)
    longest = max(result.longest for result in results) * 1e3
    rows = [
        Row(f"{who}: use of the ideal rate", use, goal="≥ 0.97" if goals else ""),
        Row(f"{who}: time with a call in flight", held),
        Row(f"{who}: smallest ÷ largest share", fair, note=f"{counts} calls"),
        Row(f"{who}: longest wait", longest, "ms"),
    ]
    if handed:
        median, goal = statistics.median(handed), "≤ 2" if goals else ""
        tail = of(handed, 0.95), of(handed, 0.99)
        rows.append(Row(f"{who}: hand-over", median, "ms", *tail, goal=goal))
    return rows
