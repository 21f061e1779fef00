"""Passages through the gate: one alone, 2,000 tasks that wait, 1,000 keys, a full record of calls."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

from _bench_contestants import COMMIT, wal_commit
from _bench_table import (
    PAUSE,
    Operation,
    Row,
    Size,
    Times,
    after_pauses,
    always,
    in_turns,
    of,
    single,
)
from _contention import KEY

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.stores.opening import configure, connect
from persistent_nonce.stores.rows import KEPT_CALLS

__all__ = ["passages", "records"]

#: Seconds that 2,000 tasks may wait.
_GUARD: Final = 600.0


def gate_of(store: SQLiteStore, key: str = KEY) -> CallGate:
    """Return a gate without an interval: what is left is what a passage costs."""
    return CallGate(store, key, min_interval=0.0, unit="ns", timeout=_GUARD)


def passage(gate: CallGate) -> Operation:
    """Return one passage through a gate."""

    def pass_() -> None:
        with gate.call("Balance"):
            pass

    return pass_


def statements(path: Path, stack: ExitStack) -> Operation:
    """Return what a passage has SQLite do, and nothing else: two transactions on a row, with the record of a call."""
    with SQLiteStore(path) as store:
        passage(gate_of(store))()
    connection = connect(path)
    stack.callback(connection.close)
    configure(connection.execute)
    connection.execute("PRAGMA synchronous = NORMAL")
    _, *record = connection.execute("SELECT * FROM calls").fetchone()
    running = json.dumps(record)  # about as long as the real one
    update = 'UPDATE keys SET "nonce" = ?, "tat" = ?, "running" = ?'
    put = f"INSERT INTO calls VALUES (?{', ?' * len(record)})"  # noqa: S608 - our own words
    numbers = count(time.time_ns())

    def transactions() -> None:
        number = next(numbers)
        connection.execute(update, (number, number, running))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(update, (number, number + 1, ""))
        connection.execute(put, (str(number), *record))
        if not number % KEPT_CALLS:
            connection.execute("DELETE FROM calls")
        connection.execute("COMMIT")

    return transactions


def passages(directory: Path, size: Size) -> list[Row]:
    """Pass where nobody waits, on a thread, on an event loop and by turns on many keys; then have tasks wait."""
    with ExitStack() as stack:
        store = stack.enter_context(SQLiteStore(directory / "gate.db"))
        contestants = {
            COMMIT: always(wal_commit(directory / "commit.db", stack)),
            "a passage": always(passage(gate_of(store))),
            "its statements alone": always(statements(directory / "bare.db", stack)),
        }
        time.sleep(size.settle)
        times = in_turns(contestants, size)
        cold = after_pauses(contestants, size)
        alone = times["a passage"]
        rows = [*_beside_commit(times, goal="≤ 4"), *_beside_commit(cold, PAUSE)]
        on_loop = asyncio.run(_on_loop(gate_of(store, "loop"), size))
        rows.append(on_loop.row("a passage on a loop", beside="a passage", other=alone))
        rows += _many_keys(store, size, alone)
        rows.append(asyncio.run(_crowd(gate_of(store, "crowd"), size.tasks)))
    return rows


def _beside_commit(
    times: dict[str, Times], when: str = "", *, goal: str = ""
) -> list[Row]:
    """Return rows that say how many commits each takes; the goal is that of the first after the commit."""
    commit = times[COMMIT]
    beside = f"as long as {COMMIT}{when}"
    rows = [
        found.row(f"{name}{when}")._replace(
            ratio=found.median / commit.median, beside=beside
        )
        for name, found in times.items()
        if name != COMMIT
    ]
    rows[0] = rows[0]._replace(goal=goal)
    return [commit.row(f"{COMMIT}{when}"), *rows]


async def _on_loop(gate: CallGate, size: Size) -> Times:
    times = Times([], [])
    for _ in range(size.rounds):
        begin = time.perf_counter()
        for _ in range(size.singles):
            before = time.perf_counter()
            async with gate.call("Balance"):
                pass
            times.singles.append(time.perf_counter() - before)
        times.means.append((time.perf_counter() - begin) / size.singles)
    return times


def _many_keys(store: SQLiteStore, size: Size, alone: Times) -> list[Row]:
    """Pass through the gates of many keys by turns, after each has been passed once."""
    operations = [passage(gate_of(store, f"key {n}")) for n in range(size.keyed)]
    first, later = _each(operations), _each(operations)
    what = f"a passage, {size.keyed:,} keys by turns"
    return [
        later.row(what, beside="a passage", other=alone),
        first.row(f"{what}: the first of each key"),
    ]


def _each(operations: list[Operation]) -> Times:
    times = Times([], [])
    for operation in operations:
        times.add(single(operation))
    return times


async def _crowd(gate: CallGate, count: int) -> Row:
    """Have tasks wait for one call, then let them go; the gaps between their calls."""
    entered: list[float] = []

    async def call() -> None:
        async with gate.call("Balance"):
            entered.append(time.perf_counter())

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(call())
    gaps = [(b - a) * 1e3 for a, b in zip([begin, *entered], entered, strict=False)]
    return Row(
        f"{count:,} tasks at once: from call to call",
        statistics.median(gaps),
        "ms",
        of(gaps, 0.95),
        of(gaps, 0.99),
        note=f"{entered[-1] - begin:.1f} s in all",
    )


def records(directory: Path, size: Size) -> list[Row]:
    """Pass with hardly a call on record, and with a full record."""
    with SQLiteStore(directory / "records.db") as store:
        new: Callable[[], Operation] = _begin(store)
        full = passage(gate_of(store, "full"))
        for _ in range(KEPT_CALLS + 1):
            full()
        time.sleep(size.settle)
        few = size._replace(burst=min(size.burst, KEPT_CALLS // 10))
        times = in_turns({"new": new, "full": always(full)}, few)
    return [
        times["new"].row("a passage, hardly a record of calls"),
        times["full"].row(
            f"a passage, {KEPT_CALLS:,} calls on record",
            beside="hardly a record of calls",
            other=times["new"],
        ),
    ]


def _begin(store: SQLiteStore) -> Callable[[], Operation]:
    """Return what begins a key of its own with each turn."""
    numbers = iter(range(1_000_000))

    def begin() -> Operation:
        operation = passage(gate_of(store, f"new {next(numbers)}"))
        operation()
        return operation

    return begin
