"""What the machines found, as fixed sequences of steps, each named after what it shows."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import CallGate, NonceProvider, Rate
from persistent_nonce.clock import SECOND
from persistent_nonce.state import KeyState
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.writer import Writer
from tests.support.clocks import StillClock
from tests.support.machine_files import Files
from tests.support.machine_runner import Killed

HOUR = 3_600
DAY = 86_400

#: More statements than a transaction has: the last points lie behind its end.
POINTS = range(12)


def reboot(files: Files, store: Store, clock: StillClock, *, early: float) -> Store:
    """End the process of `store`, start another boot with a clock that is `early` seconds behind, and open anew."""
    files.crash(store)
    clock.name, clock.up = "second boot", 100 * SECOND
    clock.now -= round(early * SECOND)
    return files.open(clock)


def test_a_kill_behind_the_ceiling_and_an_early_clock_stop_nobody(
    tmp_path: Path,
) -> None:
    """A ceiling is committed together with the clock reading that its bound comes from (I4, I10; fault A36).

    Else a process that was killed before its nonce, or a power cut behind it, leaves the mark above the bound, and
    with a clock that comes back early there is no nonce until the clock has caught up.
    """
    for point in POINTS:
        with closing(Files(tmp_path)) as files:
            clock = StillClock()
            store = files.open(clock)
            first = NonceProvider(store, "key").next()
            clock.advance(HOUR)
            files.arm(store, point)
            with suppress(Killed):
                NonceProvider(store, "key").next()
            store = reboot(files, store, clock, early=HOUR)
            assert NonceProvider(store, "key").next() > first


def test_a_kill_while_a_floor_is_set_leaves_a_key_that_can_be_used(
    tmp_path: Path,
) -> None:
    """The ceiling of a floor is committed together with the floor's offset (I4, I10; fault A36).

    Else the next boot starts above a bound that knows nothing of the floor: there is no nonce, and setting the same
    floor again changes nothing, since the mark lies above it already.
    """
    for point in POINTS:
        with closing(Files(tmp_path)) as files:
            clock = StillClock()
            store = files.open(clock)
            floor = NonceProvider(store, "key").next() + DAY * 1_000
            files.arm(store, point)
            with suppress(Killed):
                NonceProvider(store, "key").raise_floor(floor)
            provider = NonceProvider(reboot(files, store, clock, early=0), "key")
            assert provider.raise_floor(floor) >= floor
            assert provider.next() > floor


def test_the_pace_of_a_key_is_on_the_disk_before_its_first_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that a power cut could forget is on the disk before a call relies on it (I6; fault A5).

    Else the next boot wakes a key without one, takes it for empty, and goes over the exchange's limit.
    """
    rates: list[tuple[bool | None, int | None]] = []
    store = Writer._store

    def watch(self: Writer, state: KeyState, *records: Any) -> bool:
        rates.append((self._full, state.every))
        return store(self, state, *records)

    monkeypatch.setattr(Writer, "_store", watch)
    with closing(Files(tmp_path)) as files:
        with CallGate(files.open(StillClock()), "key", rate=Rate(2.0, 2)).call(
            "Balance"
        ):
            full = [every for synced, every in rates if synced]
        assert full[-1] is not None
