"""The clock that runs fast, and alike in every process."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from persistent_nonce.clock import Clock
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.testing import (
    ScaledClock,
)


@pytest.mark.parametrize("scale", [1, 20, 1000])
def test_scaled_clock_runs_so_many_times_as_fast(scale: int) -> None:
    """The monotonic reading is the machine's times the scale, exactly."""
    clock: Clock = ScaledClock(scale)
    before = time.monotonic_ns()
    reading = clock.mono()
    assert before * scale <= reading <= time.monotonic_ns() * scale
    assert clock.scale == scale


def test_scaled_clock_s_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock advances with the scale, and a step of the machine's steps it."""
    clock = ScaledClock(20)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    assert clock.wall() == 10**18 + 7 * 19
    monkeypatch.setattr(time, "monotonic_ns", lambda: 8)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 + 1)
    assert clock.wall() == 10**18 + 7 * 19 + 20
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 - 5)
    assert clock.wall() == 10**18 + 7 * 19 + 20 - 6


def test_scaled_clock_is_the_same_in_another_process() -> None:
    """A reading in another process lies between two in this one."""
    clock = ScaledClock(20)
    program = (
        "from persistent_nonce.testing import ScaledClock as Clock\n"
        "clock = Clock(20)\n"
        "print(clock.mono(), clock.boot())"
    )
    before = clock.mono()
    told = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    assert before < int(told[0]) < clock.mono()
    assert told[1] == str(clock.boot())


@pytest.mark.parametrize("scale", [0, -1, 1.5, True, "2"])
def test_scales_that_are_none(scale: Any) -> None:
    """A scale is a whole number from 1."""
    with pytest.raises(ConfigurationError):
        ScaledClock(scale)
