"""Clocks that step, stand still or show another century, and the end of all nonces, over a real store."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import MAX_NONCE, UNITS
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.commands import run
from tests.support.workers import KEY, Shifted

HOUR: Final = 3_600.0
DAY: Final = 24 * HOUR
YEAR: Final = 365.25 * DAY

#: Where the clock stands at each draw, in seconds from the first, but for the years.
STEPS: Final = {
    "an hour back": [0.0, -HOUR, -HOUR, 0.0, 1.0],
    "an hour back, and again": [0.0, -HOUR, -2 * HOUR, -3 * HOUR, 0.0],
    "an hour back and forward": [0.0, -HOUR, 0.0, -HOUR, 0.0, -HOUR, HOUR],
    "ten days forward and back": [0.0, 10 * DAY, 10 * DAY + 1, 0.0, 1.0, 2.0],
    "ten days forward, and stays": [0.0, 10 * DAY, 10 * DAY + 1, 10 * DAY + 2],
    "a second back at each draw": [0.0, -1.0, -2.0, -3.0, -4.0, -5.0],
    "still": [0.0] * 6,
    "1969, once": [0.0, -54.0 * YEAR, 1.0, 2.0],
    "1969, from the start": [-54.0 * YEAR, -54.0 * YEAR + 1, 0.0, 1.0],
    "2100, once": [0.0, 76 * YEAR, 1.0, 2.0],
    "1900, once": [0.0, -124 * YEAR, 1.0],
    "to and fro": [0.0, 5.0, -5.0, 4.0, -4.0, 3.0, -3.0, 900.0, -900.0],
}


path, clock, store = databases.path, databases.clock, databases.store_by_clock


def stored(path: Path, column: str = "nonce") -> tuple[str, int]:
    """Return how SQLite keeps the mark of the only key, and the mark."""
    with closing(sqlite3.connect(path)) as connection:
        query = f"SELECT typeof({column}), {column} FROM keys"  # noqa: S608 - the test's own words
        ((kind, mark),) = connection.execute(query).fetchall()
    return kind, mark


# --- A22: steps of the clock


@pytest.mark.parametrize("ahead", [0.0, HOUR], ids=["", "mark an hour ahead"])
@pytest.mark.parametrize("steps", STEPS)
def test_nonces_and_calls_while_the_clock_steps(
    path: Path, store: SQLiteStore, clock: StillClock, steps: str, ahead: float
) -> None:
    """Nonces rise over every step of the clock, one by one where it stands behind; calls go on (I1, I2, I8; A22)."""
    begin = clock.now
    nonces = NonceProvider(store, KEY)
    gate = CallGate(store, KEY, timeout=1.0)
    if ahead:
        nonces.raise_floor((begin + round(ahead * SECOND)) // UNITS["ms"])
    drawn = [nonces.last] if ahead else []
    for step in STEPS[steps]:
        clock.now = begin + round(step * SECOND)
        clock.up += SECOND  # the interval has passed, whatever the wall clock says
        reading = clock.now // UNITS["ms"]
        drawn.append(nonces.next())
        with gate.call("Balance") as call:
            drawn.append(call.nonce)
        assert drawn[-1] >= reading
        if len(drawn) > 2 and drawn[-3] > reading:
            assert drawn[-2:] == [drawn[-3] + 1, drawn[-3] + 2]
    assert all(one < other for one, other in pairwise(drawn))
    assert stored(path) == ("integer", drawn[-1])
    state = store.read(nonces.key)
    assert drawn[-1] <= state.bound <= MAX_NONCE
    expected = (drawn[-1] * UNITS["ms"] - clock.now) / SECOND
    assert state.lead(clock.now) == pytest.approx(expected)


def test_the_lead_is_reported(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a clock that was ten days ahead, `show` says how far ahead of it the nonces are; doctor finds it (A22)."""
    with SQLiteStore(path, clock=Shifted(10 * DAY)) as store:
        NonceProvider(store, KEY).next()
    (key,) = run(capsys, "show", "--json", "--db", path).data["keys"]
    assert 10 * DAY - HOUR < key["lead"] < 10 * DAY + 1
    ran = run(capsys, "doctor", "--db", path)
    assert ran.code == 1
    assert re.search(r"the clock stood 86\d{4} s later", ran.out)


def test_a_machine_suspended_in_a_call(store: SQLiteStore, clock: StillClock) -> None:
    """A call during which the machine slept for eight hours is not overtaken: only time awake counts (I5, I8; A22)."""
    gate = CallGate(store, KEY, hold_timeout=300, timeout=0.0)
    with gate.call("AddOrder") as call, SQLiteStore(store.path, clock=clock) as beside:
        clock.now += round(8 * HOUR * SECOND)  # CLOCK_MONOTONIC stands still meanwhile
        with pytest.raises(GateTimeoutError):
            CallGate(beside, KEY, timeout=0.0).call("Balance").__enter__()
        running = store.read(gate.key).running
        assert running is not None
        assert running.nonce == call.nonce
    clock.up += SECOND
    with gate.call("Balance") as call:
        assert call.nonce == clock.now // UNITS["ms"]


# --- A23: the end of all nonces

STARTS: Final = {
    "2**63 - 2": MAX_NONCE - 1, "2**63 - 3": MAX_NONCE - 2, "0": 0, "2**53": 2**53, "2**62": 2**62,
}  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("floor", STARTS)
def test_the_range_of_nonces(
    path: Path, store: SQLiteStore, unit: str, floor: str
) -> None:
    """Up to 2**63 - 1 every nonce is one more than the last, an integer in SQLite; then there is none (I10; A23)."""
    start = STARTS[floor]
    nonces = NonceProvider(store, KEY, unit=unit)
    gate = CallGate(store, KEY, unit=unit, min_interval=0.0)
    nonces.raise_floor(start)
    drawn = [start]
    left = min(4, MAX_NONCE - start)
    for number in range(left):
        if number % 2:
            with gate.call("Balance") as call:
                drawn.append(call.nonce)
        else:
            drawn.append(nonces.next())
        assert stored(path) == ("integer", drawn[-1])
    assert all(type(nonce) is int for nonce in drawn)
    rises = [other - one for one, other in pairwise(drawn)]
    assert rises[1:] == [1] * (left - 1)
    if left == 4:
        return
    for _ in range(3):
        with pytest.raises(NonceRangeError):
            nonces.next()
        with pytest.raises(NonceRangeError):
            nonces.reserve(2)
        with pytest.raises(NonceRangeError):
            gate.call("Balance").__enter__()
    assert stored(path) == ("integer", MAX_NONCE)
    assert stored(path, "ceiling") == ("integer", MAX_NONCE)
    state = store.read(nonces.key)
    assert (state.queue, state.running) == ((), None)


@pytest.mark.parametrize("floor", [2**63 - 1, 2**63, 2**64, 2**64 - 1, -1])
def test_a_floor_beyond_the_range(store: SQLiteStore, floor: int) -> None:
    """A floor above which no nonce is left, that of a venue with 64 unsigned bits too, is refused (I10; A23)."""
    nonces = NonceProvider(store, KEY)
    before = nonces.next()
    with pytest.raises(NonceRangeError):
        nonces.raise_floor(floor)
    assert nonces.next() == before + 1


@pytest.mark.parametrize("unit", UNITS)
def test_a_clock_at_the_end_of_the_range(
    store: SQLiteStore, clock: StillClock, unit: str
) -> None:
    """A clock that shows the last moment, or one beyond, gives a nonce or NonceRangeError (I9; A22, A23)."""
    nonces = NonceProvider(store, KEY, unit=unit)
    begin = clock.now
    for now in (MAX_NONCE - SECOND, MAX_NONCE - 1, MAX_NONCE, 2**64, 2**70):
        clock.now = now
        try:
            assert nonces.next() <= MAX_NONCE
        except NonceRangeError:
            assert unit in ("ns", "us", "10ns") or now >= MAX_NONCE
    clock.now = begin
    if unit in ("s", "ms"):
        assert nonces.next() == nonces.last
