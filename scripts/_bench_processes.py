"""Nonces of several processes on one key: hammering, in strict alternation, and drawn slowly."""

from __future__ import annotations

import os
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from _bench_contestants import COMMIT, wal_commit
from _bench_table import Operation, Row, Size, Times, of, turn
from _contention import GUARD, KEY, Worker, release, started, together

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.state import UNITS

__all__ = ["alternation", "processes", "slow_drawer"]


# --- hammering


class Total(NamedTuple):
    """What came of processes that drew for a while."""

    rate: float  # nonces a second in all
    fair: float  # smallest share ÷ largest
    longest: float  # seconds that one nonce took


def hammer(path: str, pipe: Any) -> None:
    """Draw from one moment to another; send how many, and the longest time that one took."""
    pipe.recv()
    nonces = NonceProvider(SQLiteStore(path, timeout=GUARD), KEY, unit="ns")
    nonces.next()
    draw, clock = nonces.next, time.monotonic
    last, end = together(pipe)
    drawn, longest = 0, 0.0
    while last < end:
        draw()
        now = clock()
        if now - last > longest:  # noqa: PLR1730 - max() is a call for each nonce
            longest = now - last
        last = now
        drawn += 1
    pipe.send((drawn, longest))


def hammering(path: Path, count: int, seconds: float) -> Total:
    """Let processes draw for so long."""
    with started(hammer, count, str(path)) as workers:
        release(workers, seconds)
        drawn, waits = zip(*(worker.answer() for worker in workers), strict=True)
    return Total(sum(drawn) / seconds, min(drawn) / max(drawn), max(waits))


def processes(directory: Path, size: Size) -> list[Row]:
    """Have 8 processes hammer one key for nonces in ns, then other numbers of them."""
    commits: list[float] = []
    totals: list[Total] = []
    with ExitStack() as stack:
        commit = wal_commit(directory / "commit.db", stack)
        for number in range(max(1, size.rounds // 5)):
            done, spent = turn(commit, 1_000_000, size.hammering / 2)
            commits.append(done / spent)
            path = directory / f"{number}.db"
            totals.append(hammering(path, size.hammers, size.hammering))
    alone = statistics.median(commits)
    rows = [Row(f"{COMMIT} per nonce, one process", alone, "nonces/s")]
    rows += _rows(size.hammers, totals, alone, goals=True)
    for count in size.processes:
        total = hammering(directory / f"of {count}.db", count, size.hammering)
        rows += _rows(count, [total], alone, goals=False)
    return rows


def _rows(count: int, totals: list[Total], alone: float, *, goals: bool) -> list[Row]:
    rate, fair = (
        statistics.median(found) for found in list(zip(*totals, strict=True))[:2]
    )
    goal = ("≥ 15", "≥ 0.7", "≤ 100") if goals else ("", "", "")
    who = f"{count} processes" if count > 1 else "1 process"
    rows = [
        Row(
            f"{who}: in all",
            rate,
            "nonces/s",
            ratio=rate / alone,
            beside=f"{COMMIT} per nonce",
            goal=goal[0],
        )
    ]
    if count > 1:
        rows.append(Row(f"{who}: smallest ÷ largest share", fair, goal=goal[1]))
    longest = max(total.longest for total in totals) * 1e3
    return [*rows, Row(f"{who}: longest wait", longest, "ms", goal=goal[2])]


# --- strict alternation


def alternate(path: str, pipe: Any) -> None:
    """Whenever told what and how often, wait for the token, do it and pass the token on; send the seconds it took."""
    nonces = NonceProvider(SQLiteStore(path), KEY, unit="ns")
    nonces.next()
    does: dict[str, Operation] = {
        "the token alone": lambda: None,
        "next()": nonces.next,
        "reserve(1)": lambda: nonces.reserve(1),
    }
    first, here, there = pipe.recv()
    # Neither opening waits: a FIFO that is open for both has a reader and a writer.
    token_in, token_out = (os.open(name, os.O_RDWR) for name in (here, there))
    pipe.send("ready")
    while True:
        what, count = pipe.recv()
        operation = does[what]
        begin = time.perf_counter()
        for _ in range(count):
            if not first:
                os.read(token_in, 1)
            operation()
            os.write(token_out, b".")
            if first:
                os.read(token_in, 1)
        pipe.send(time.perf_counter() - begin)


def alternation(directory: Path, size: Size) -> list[Row]:
    """Have 2 processes pass a token, so that neither ever draws twice in a row; p95 and p99 are of rounds."""
    fifos = [str(directory / name) for name in ("one", "two")]
    for fifo in fifos:
        os.mkfifo(fifo)
    names = ("next()", "reserve(1)", "the token alone")
    times = {name: Times([], []) for name in names}
    with started(alternate, 2, str(directory / "a.db")) as (one, two):
        one.pipe.send((True, *fifos))
        two.pipe.send((False, *reversed(fifos)))
        one.answer()
        two.answer()
        for number in range(size.rounds):
            for name in reversed(names) if number % 2 else names:
                spent = _exchange((one, two), name, size.exchanges)
                times[name].add(spent)
    ours, plain, token = (times[name] for name in names)
    note = "with the passing of the token"
    return [
        ours.row(names[0], beside=names[1], other=plain, goal="≥ 0.9", note=note),
        plain.row(names[1], note=note),
        token.row(names[2]),
    ]


def _exchange(workers: tuple[Worker, Worker], name: str, count: int) -> float:
    for worker in workers:
        worker.pipe.send((name, count))
    spent, _ = (float(worker.answer()) for worker in workers)
    return spent / (2 * count)


# --- a slow drawer

_RATES: Final = (5, 50)


def slow_drawer(directory: Path, size: Size) -> list[Row]:
    """Draw 5 and 50 nonces a second; the lead over the clock: the greatest, and that of most."""
    leads: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with SQLiteStore(directory / "slow.db") as store:
        crowd = [
            threading.Thread(
                target=_draw_slowly,
                args=(
                    store,
                    rate,
                    unit,
                    size.drawing,
                    leads.setdefault((rate, unit), []),
                ),
            )
            for rate in _RATES
            for unit in ("ms", "ns")
        ]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
    rows = []
    for (rate, unit), found in leads.items():
        what = f"{rate} a second, {unit}"
        handed, marks = (sorted(column) for column in zip(*found, strict=True))
        for name, column, goal in (("nonces", handed, "≤ 50"), ("the mark", marks, "")):
            tail = of(column, 0.95), of(column, 0.99)
            row = Row(f"{what}: greatest lead of {name}", column[-1], "ms", *tail)
            rows.append(row._replace(goal=goal, note=f"{len(column)} nonces"))
    return rows


def _draw_slowly(
    store: SQLiteStore,
    rate: int,
    unit: str,
    seconds: float,
    leads: list[tuple[float, float]],
) -> None:
    """Draw at a rate; note the lead over the clock, in ms, of each nonce and of the mark after it."""
    nonces, tick = NonceProvider(store, f"{rate} {unit}", unit=unit), UNITS[unit]
    begin = time.monotonic()
    for number in range(max(1, round(rate * seconds))):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        nonce = nonces.next()
        clock = time.time_ns()
        leads.append(((nonce * tick - clock) / 1e6, (nonces.last * tick - clock) / 1e6))
