"""What a table of the benchmarks is made of: rows of medians, of work that takes turns.

A row's ratio says how many times as fast it is as what it stands beside, unless its name says otherwise; its goal is
held against the ratio, or without one against the median.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Final, NamedTuple

__all__ = [
    "PAUSE",
    "QUICK",
    "Contestant",
    "Operation",
    "Row",
    "Size",
    "Times",
    "after_pauses",
    "always",
    "in_turns",
    "of",
    "single",
    "turn",
]

#: What is measured.
Operation = Callable[[], object]

#: What takes turns: called before each, unmeasured, it returns what is measured in it.
Contestant = Callable[[], Operation]

#: What is added to the name of what follows a pause each time.
PAUSE: Final = ", after a pause"

#: Operations between two looks at the clock.
_CHUNK: Final = 100


class Size(NamedTuple):
    """How much is measured."""

    rounds: int = 15  # turns of each contestant
    turn: float = 0.15  # seconds after which a turn ends, however little was done
    burst: int = 100_000  # the most operations of a turn
    singles: int = 200  # operations of a turn that are timed one by one
    pauses: int = 4  # operations of a round that follow a pause each
    settle: float = (
        3.0  # seconds: a directory that was just changed is looked at more closely
    )
    draws: int = 20_000  # of each of 20 threads
    crowd: float = (
        1.5  # seconds after which 20 threads are stopped, however little was done
    )
    hammers: int = 8  # processes
    hammering: float = 4.0  # seconds
    exchanges: int = 500  # of a token, in a turn
    drawing: float = 60.0  # seconds of slow drawing
    calling: float = 6.0  # seconds of calls of 20 ms
    processes: tuple[int, ...] = (1, 4, 16, 64)
    tasks: int = 2_000
    keyed: int = 1_000  # keys of the gate
    keys: tuple[int, ...] = (1, 100, 10_000)
    many: int = 10_000_000  # nonces of one key
    patience: float = 60.0  # seconds after which they must do
    starts: int = 15  # of an interpreter


#: For a first look.
QUICK: Final = Size(
    rounds=5,
    turn=0.03,
    singles=50,
    settle=1.0,
    draws=2_000,
    crowd=0.3,
    hammering=1.0,
    exchanges=200,
    drawing=3.0,
    calling=1.0,
    processes=(1, 4),
    tasks=200,
    keyed=100,
    keys=(1, 100, 1_000),
    many=300_000,
    patience=5.0,
    starts=3,
)


class Row(NamedTuple):
    """A line of a table; what does not apply is None or empty."""

    what: str
    median: float | None
    unit: str = ""
    p95: float | None = None
    p99: float | None = None
    ratio: float | None = None
    beside: str = ""
    goal: str = ""  # "≥ 1.5" or "≤ 10"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if there is none, or nothing was measured."""
        value = self.median if self.ratio is None else self.ratio
        if not self.goal or value is None:
            return None
        sign, _, limit = self.goal.partition(" ")
        return value >= float(limit) if sign == "≥" else value <= float(limit)

    def told(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        return {**self._asdict(), "met": self.met}


class Times(NamedTuple):
    """Seconds that an operation took: the mean of each turn, and single ones."""

    means: list[float]
    singles: list[float]

    @property
    def median(self) -> float:
        """The median of the turns."""
        return statistics.median(self.means)

    def add(self, seconds: float) -> None:
        """Add a turn of one operation."""
        self.means.append(seconds)
        self.singles.append(seconds)

    def row(
        self,
        what: str,
        *,
        unit: str = "µs",
        beside: str = "",
        other: Times | None = None,
        goal: str = "",
        note: str = "",
    ) -> Row:
        """Return a row in ms or µs, beside the times of another."""
        scale = {"µs": 1e6, "ms": 1e3}[unit]
        return Row(
            what,
            self.median * scale,
            unit,
            of(self.singles, 0.95) * scale,
            of(self.singles, 0.99) * scale,
            other.median / self.median if other else None,
            beside,
            goal,
            note,
        )


def of(values: Iterable[float], share: float) -> float:
    """Return the smallest of `values` that no more than the rest of 1 - `share` of them exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def always(operation: Operation) -> Contestant:
    """Return a contestant that does the same in each turn."""
    return lambda: operation


def turn(operation: Operation, most: int, seconds: float) -> tuple[int, float]:
    """Repeat an operation `most` times, or for so long; return how often, and the seconds it took."""
    done, begin = 0, time.perf_counter()
    while True:
        chunk = min(_CHUNK, most - done)
        for _ in repeat(None, chunk):
            operation()
        done += chunk
        spent = time.perf_counter() - begin
        if done >= most or spent >= seconds:
            return done, spent


def single(operation: Operation) -> float:
    """Return the seconds of one operation, with one reading of the clock."""
    begin = time.perf_counter()
    operation()
    return time.perf_counter() - begin


def in_turns(contestants: dict[str, Contestant], size: Size) -> dict[str, Times]:
    """Let the contestants take turns, those of every other round backwards; return the times of each."""
    found = {name: Times([], []) for name in contestants}
    for number in range(size.rounds):
        order = list(contestants.items())
        for name, contestant in reversed(order) if number % 2 else order:
            operation, times = contestant(), found[name]
            done, spent = turn(operation, size.burst, size.turn)
            times.means.append(spent / done)
            times.singles.extend(single(operation) for _ in range(size.singles))
    return found


def after_pauses(contestants: dict[str, Contestant], size: Size) -> dict[str, Times]:
    """Let each of the contestants do one thing after each pause; what is kept for bursts is worth nothing then."""
    found = {name: Times([], []) for name in contestants}
    for _ in range(size.rounds * size.pauses):
        for name, contestant in contestants.items():
            operation = contestant()
            time.sleep(0.02)
            found[name].add(single(operation))
    return found
