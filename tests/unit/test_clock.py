"""The clocks of this machine, and the conversion of seconds."""

from __future__ import annotations

import builtins
import io
import os
import time
from typing import Any, Final

import pytest

from persistent_nonce import clock
from persistent_nonce.clock import (
    SECOND,
    SYSTEM_CLOCK,
    SystemClock,
    namespace_offset,
    nanoseconds,
)


def test_readings_are_nanoseconds_of_the_system() -> None:
    """The wall clock lies between two readings of the system's, and so does the monotonic one."""
    before = (time.time_ns(), time.monotonic_ns())
    wall, mono = SYSTEM_CLOCK.wall(), SYSTEM_CLOCK.mono()
    after = (time.time_ns(), time.monotonic_ns())
    assert before[1] <= mono <= after[1]
    assert before[0] - SECOND <= wall <= after[0] + SECOND  # a clock may be slewed
    assert SYSTEM_CLOCK.scale == 1.0


@pytest.mark.parametrize(
    ("content", "expected"),
    [("0f-1e\n", "0f-1e"), ("\n", None), (None, None)],
)
def test_boot(
    content: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The boot is what the kernel says, and None where it says nothing."""

    def fake(*_: Any, **__: Any) -> io.StringIO:
        if content is None:
            raise FileNotFoundError
        return io.StringIO(content)

    monkeypatch.setattr(builtins, "open", fake)
    assert SystemClock().boot() == expected


_OFFSETS: Final = "monotonic        1000         5\nboottime          -3 999999999\n"


@pytest.mark.parametrize(
    ("namespace", "content", "expected"),
    [
        ("time:[4026531834]", _OFFSETS, (0, 0)),  # the one the machine began with
        ("time:[4026532999]", _OFFSETS, (1000 * SECOND + 5, -3 * SECOND + 999_999_999)),
        ("time:[4026532999]", "", (0, 0)),
        ("time:[4026532999]", None, (0, 0)),
        (None, _OFFSETS, (0, 0)),  # a kernel without them
    ],
)
def test_time_namespace(
    namespace: str | None,
    content: str | None,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A time namespace sets clocks ahead, or back, by what the kernel says."""

    def link(path: str) -> str:
        if namespace is None:
            raise FileNotFoundError
        return namespace

    def fake(*_: Any, **__: Any) -> io.StringIO:
        if content is None:
            raise PermissionError
        return io.StringIO(content)

    monkeypatch.setattr(os, "readlink", link)
    monkeypatch.setattr(builtins, "open", fake)
    found = namespace_offset("monotonic"), namespace_offset("boottime")
    assert found == expected


def test_clock_of_a_time_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic reading is the machine's in every time namespace, and unchanged outside of them (I5)."""
    monkeypatch.setattr(clock, "namespace_offset", {"monotonic": 1000 * SECOND}.get)
    before = time.monotonic_ns()
    mono = clock._monotonic()()
    assert before <= mono + 1000 * SECOND <= time.monotonic_ns()
    monkeypatch.setattr(clock, "namespace_offset", {"monotonic": 0}.get)
    assert clock._monotonic() is time.monotonic_ns


def test_boot_stays_the_same() -> None:
    """Two readings within one boot agree."""
    assert SystemClock().boot() == SystemClock().boot()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, 0),
        (1, SECOND),
        (0.2, 200_000_000),
        (1e-9, 1),
        (0.1 + 0.2, 300_000_000),
        (1.001, 1_001_000_000),
        (-1.5, -1_500_000_000),
        (31_622_400.0, 31_622_400 * SECOND),
    ],
)
def test_nanoseconds(seconds: float, expected: int) -> None:
    """Seconds become the nearest whole number of nanoseconds."""
    assert nanoseconds(seconds) == expected
    assert isinstance(nanoseconds(seconds), int)
