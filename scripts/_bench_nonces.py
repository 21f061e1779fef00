"""Nonces of one process, on one thread or on twenty, beside what people use instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

from _bench_contestants import COMMIT, MEMORY, Drawer, Generator, GeneratorOfMs, others
from _bench_table import (
    PAUSE,
    Contestant,
    Row,
    Size,
    Times,
    after_pauses,
    always,
    in_turns,
    turn,
)

from persistent_nonce import NonceProvider, SQLiteStore

__all__ = ["one_thread", "threads"]

_THREADS: Final = 20

_PLAIN: Final = "reserve(1), the plain path"
_GENERATORS: Final[dict[str, Callable[[], Drawer]]] = {
    "ns": Generator,
    "ms": GeneratorOfMs,
}


class Nothing:
    """What nonces would cost if they were no work at all."""

    def next(self) -> int:
        """Return the same as ever."""
        return 0


def fresh(store: SQLiteStore, unit: str) -> Iterator[NonceProvider]:
    """Yield providers that have begun, each of a key of its own: in ms a burst leaves its key far ahead (I10)."""
    for number in count():
        provider = NonceProvider(store, f"{unit} {number}", unit=unit)
        provider.next()
        yield provider


def new(make: Callable[[], Drawer]) -> Iterator[Drawer]:
    """Yield drawers of another kind that have begun likewise."""
    while True:
        drawer = make()
        drawer.next()
        yield drawer


def one_thread(directory: Path, size: Size) -> list[Row]:
    """Draw on one thread, in bursts and one by one, in turns with what others use."""
    with ExitStack() as stack:
        store = stack.enter_context(SQLiteStore(directory / "nonces.db"))
        nonces = NonceProvider(store, "key", unit="ns")
        in_ms = fresh(store, "ms")
        contestants: dict[str, Contestant] = {
            "next(), ns": always(nonces.next),
            f"{MEMORY}, ns": always(Generator().next),
            "next(), ms": lambda: next(in_ms).next,
            f"{MEMORY}, ms": lambda: GeneratorOfMs().next,
            _PLAIN: always(lambda: nonces.reserve(1)),
        }
        ours = len(contestants)
        found, missing = others(directory, stack)
        contestants |= found
        time.sleep(size.settle)
        times = in_turns(contestants, size)
        # Not among the turns: what follows a pause finds its caches cold, and so must what it stands beside.
        pauses = after_pauses(
            {name: contestants[name] for name in ("next(), ns", COMMIT)}, size
        )
    rows = []
    for unit in ("ns", "ms"):
        memory = f"{MEMORY}, {unit}"
        other = times[memory]
        row = times[f"next(), {unit}"].row(
            f"next(), {unit}, in bursts", beside=memory, other=other, goal="≥ 1.5"
        )
        rows += [row, other.row(memory)]
    plain = times[_PLAIN]
    rows.append(plain.row(_PLAIN, beside=COMMIT, other=times[COMMIT]))
    rows += [
        times[name].row(name, beside="reserve(1)", other=plain)
        for name in list(contestants)[ours:]
    ]
    rows += [Row(name, None, note=why) for name, why in missing.items()]
    commit = pauses[COMMIT]
    cold = pauses["next(), ns"].row(
        f"next(){PAUSE}", beside=f"{COMMIT}{PAUSE}", other=commit
    )
    return [*rows, cold, commit.row(f"{COMMIT}{PAUSE}")]


# --- twenty threads


def started_inside(drawer: Drawer, draws: int, seconds: float) -> float:
    """Return the seconds of a nonce when threads of 50 nonces are started within the measured time."""
    del draws, seconds

    def draw() -> None:
        for _ in range(50):
            drawer.next()

    begin = time.perf_counter()
    crowd = [threading.Thread(target=draw) for _ in range(_THREADS)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return (time.perf_counter() - begin) / (_THREADS * 50)


def released(drawer: Drawer, draws: int, seconds: float) -> float:
    """Return the seconds of a nonce when threads begin at once, until the last has ended."""
    begins: list[float] = []
    ends: list[tuple[int, float]] = []
    barrier = threading.Barrier(
        _THREADS, action=lambda: begins.append(time.perf_counter())
    )

    def draw() -> None:
        barrier.wait()
        done, _ = turn(drawer.next, draws, seconds)
        ends.append((done, time.perf_counter()))

    crowd = [threading.Thread(target=draw) for _ in range(_THREADS)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    return (max(end for _, end in ends) - begins[0]) / sum(done for done, _ in ends)


def threads(directory: Path, size: Size) -> list[Row]:
    """Draw on 20 threads, started within the measured time or released from a barrier; p95 and p99 are of rounds."""
    rows: list[Row] = []
    with SQLiteStore(directory / "threads.db") as store:
        keys = {unit: fresh(store, unit) for unit in ("ns", "ms")}
        time.sleep(size.settle)
        # In ms no more than 100,000 in all: a key may be 15 minutes ahead, which are 900,000 nonces.
        for how, unit, draws in (
            ("started inside", "ns", 50),
            ("from a barrier", "ns", size.draws),
            ("started inside", "ms", 50),
            ("from a barrier", "ms", min(size.draws, size.burst // _THREADS)),
        ):
            run = started_inside if how == "started inside" else released
            rounds = size.rounds * 3 if run is started_inside else size.rounds
            drawers: dict[str, Iterator[Drawer]] = {
                "next()": keys[unit],
                MEMORY: new(_GENERATORS[unit]),
                "nothing": new(Nothing),
            }
            times = {name: Times([], []) for name in drawers}
            for number in range(rounds):
                order = list(drawers.items())
                # Each begins right before its turn: what was prepared earlier finds its caches cold.
                for name, prepared in reversed(order) if number % 2 else order:
                    times[name].add(run(next(prepared), draws, size.crowd))
            label = f"{_THREADS} × {draws:,} {how}, {unit}"
            ours, memory, nothing = times.values()
            beside = f"{MEMORY}, {label}"
            # In ms a block begins with the nonces of 10 ms, which are ten; long bursts have a goal.
            goal = "" if (how, unit) == ("started inside", "ms") else "≥ 1"
            rows += [
                ours.row(f"next(), {label}", beside=beside, other=memory, goal=goal),
                memory.row(beside),
                nothing.row(f"no nonces, {label}", beside=beside, other=memory),
            ]
    return rows
