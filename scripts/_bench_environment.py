"""What the figures of a benchmark depend on: the machine, its disk, its clock, and the versions of what takes part."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from _bench_table import single

__all__ = ["environment"]

_CLOCK: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")

#: A reading of a clock that takes more ns than this asks the kernel.
_FAST: Final = 250

_PACKAGES: Final = (
    "persistent_nonce",
    "filelock",
    "diskcache",
    "pyrate-limiter",
    "portalocker",
    "redis",
)


def environment(directory: Path) -> dict[str, Any]:
    """Return what the figures depend on, in words and numbers."""
    command = ["df", "--output=fstype", str(directory)]
    reading = min(_reading() for _ in range(20))
    source = _CLOCK.read_text("ascii").strip() if _CLOCK.exists() else "unknown"
    flushes = sorted(_flushes(directory / "flushed"))
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 2),
        "nice": os.nice(0),
        "kernel": platform.release(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "switch interval, ms": sys.getswitchinterval() * 1e3,
        "sqlite": sqlite3.sqlite_version,
        "file system": subprocess.run(  # noqa: S603 - of this script's own words
            command, capture_output=True, text=True, check=False
        )
        .stdout.partition("\n")[2]
        .strip(),
        "clock": source,
        "clock, ns a reading": round(reading),
        "clock is fast": reading < _FAST,
        "fsync of 4 KiB, ms": round(statistics.median(flushes) * 1e3, 3),
        "fsync at worst, ms": round(flushes[-1] * 1e3, 3),
        **{name: _installed(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """Return the name of the processor, where the system tells it."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2] for line in file if "model name" in line]
    return names[0].strip() if names else platform.machine()


def _reading() -> float:
    """Return the ns of one reading of the clock that makes nonces."""
    begin = time.perf_counter_ns()
    for _ in range(1000):
        time.time_ns()
    return (time.perf_counter_ns() - begin) / 1000


def _flushes(path: Path) -> list[float]:
    """Return the seconds of each of some writes of 4 KiB with fsync."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:

        def flush() -> None:
            os.pwrite(descriptor, bytes(4096), 0)
            os.fsync(descriptor)

        return [single(flush) for _ in range(30)]
    finally:
        os.close(descriptor)
        path.unlink()


def _installed(name: str) -> str:
    """Return the version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
