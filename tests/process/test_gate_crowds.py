"""Thousands of tasks at one gate: in order, one at a time, with few threads, and a loop that keeps moving."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from itertools import pairwise

import pytest

from persistent_nonce import CallGate
from tests.support import crowds
from tests.support.callers import until
from tests.support.crowds import RUN, Heart, NotingStore, nothing_left

#: How many tasks start in one turn of the loop, which is the caller's own time.
_AT_ONCE = 50

store, gate = crowds.store, crowds.gate


@pytest.mark.parametrize(
    ("loop", "tasks", "cancelled"),
    [
        ("asyncio", 2_000, 500),
        (
            "uvloop",
            2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 500,
            125,
        ),
    ],
)
def test_thousands_of_tasks(
    store: NotingStore, gate: CallGate, loop: str, tasks: int, cancelled: int
) -> None:
    """Of 2,000 tasks 500 are cancelled at random; the others come in order of their tickets, one at a time (I5, I7).

    They have 8 threads between them, never have their loop wait for the store, and leave nothing.
    """
    moment, heart = random.Random(5), Heart()
    served: list[int] = []
    inside: list[int] = []

    async def caller(number: int) -> None:
        async with gate.call("Balance"):
            inside.append(number)
            assert len(inside) == 1, f"two in flight: {inside}"
            try:
                await asyncio.sleep(0.0005)
            finally:
                inside.pop()
        served.append(number)

    async def main() -> set[int]:
        beating = asyncio.create_task(heart.beat())
        crowd: list[asyncio.Task[None]] = []
        for number in range(tasks):
            crowd.append(asyncio.create_task(caller(number)))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        for victim in moment.sample(range(tasks), cancelled):
            await asyncio.sleep(moment.uniform(0, 0.01))
            crowd[victim].cancel()
        ends = await asyncio.gather(*crowd, return_exceptions=True)
        beating.cancel()
        assert {type(end) for end in ends} <= {type(None), asyncio.CancelledError}
        return {number for number, end in enumerate(ends) if end is not None}

    before = threading.active_count()
    wall, cpu = time.perf_counter(), time.process_time()
    gone = RUN[loop](main())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    late = f"loop late by {heart.latest * 1e3:.0f} ms, {len(store.late)} passed over"
    print(f"{wall:.1f} s, CPU {cpu:.1f} s, {late}")  # noqa: T201 - shown with -rP, and where it fails
    assert len(gone) > cancelled // 2
    assert sorted([*served, *gone]) == list(range(tasks))
    in_order = sorted(store.begun, key=store.begun.__getitem__)
    assert len(in_order) >= len(served)
    # On a machine so busy that a thread does not run for a second, a call may let its turn pass.
    in_order = [call for call in in_order if call not in store.late]
    for one, next_ in pairwise(in_order):
        assert store.tickets[one] < store.tickets[next_]
    assert heart.threads - before <= 8 + 1  # one may be about to end
    assert store.on_loop == 0
    assert nothing_left(store, gate)
    until(lambda: threading.active_count() <= before, "the threads to end")
