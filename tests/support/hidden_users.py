"""Two users of one database who cannot see each other's processes (proc(5), hidepid); run in a pid namespace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore
from tests.support.killing import GUARD, forked
from tests.support.workers import KEY

__all__ = ["meet"]

#: Users and a group that no machine has; numbers are enough for the kernel.
_ANN: Final = 61_001
_BEN: Final = 61_002
_BOTS: Final = 61_100


def meet(directory: str) -> list[str]:
    """Let Ann hold a call whose session's file is removed, then end it by a kill; return what Ben finds each time."""
    subprocess.run(
        ["mount", "-t", "proc", "-o", "hidepid=2", "proc", "/proc"],  # noqa: S607 - the system's own
        check=True,
    )
    place = Path(directory) / "shared"
    place.mkdir()
    with SQLiteStore(place / "first.db") as first:  # all that is imported late
        CallGate(first, KEY).call("Balance").__enter__()
    shutil.rmtree(place)
    place.mkdir()
    os.chown(place, _ANN, _BOTS)
    place.chmod(0o2770)
    path = place / "nonces.db"
    ann = _hold(path)
    found = [_try(path)]
    for file in place.glob("nonces.db.sessions/*"):
        file.unlink()
    found.append(_try(path))
    os.kill(ann, signal.SIGKILL)
    os.waitpid(ann, 0)
    return [*found, _try(path)]


def _become(user: int) -> None:
    os.setgroups([])
    os.setgid(_BOTS)
    os.setuid(user)


def _hold(path: Path) -> int:
    """Have Ann begin a call that does not end; return her pid."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(GUARD)
            _become(_ANN)
            with CallGate(SQLiteStore(path, shared=True), KEY).call("AddOrder"):
                os.write(writing, b"in")
                signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    assert os.read(reading, 2) == b"in"
    os.close(reading)
    return pid


def _try(path: Path) -> str:
    """Return whether Ben gets a call."""

    def work(tell: Callable[[str], None]) -> None:
        _become(_BEN)
        store = SQLiteStore(path, shared=True)
        gate = CallGate(store, KEY, min_interval=0.0)
        try:
            with gate.call("Balance", timeout=0.5):
                tell("in")
        except GateTimeoutError:
            tell("waits")

    lines, _ = forked(work)
    return lines[0]
