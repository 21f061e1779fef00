"""What the child processes of tests do with a store; started by `tests.support.processes`."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from persistent_nonce.clock import SECOND, SystemClock
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.checker import Log
from tests.support.clocks import StillWall

__all__ = ["KEY", "Shifted", "draw", "draw_on", "hold_lock", "live", "next_by"]

#: The API key of the tests.
KEY = "an API key"


class Shifted(SystemClock):
    """The machine's clock with its wall clock set `seconds` ahead, in the boot `name` unless it is empty."""

    def __init__(self, seconds: float, name: str = "") -> None:
        self._ahead = round(seconds * SECOND)
        self._name = name

    def wall(self) -> int:
        """Return nanoseconds since 1970."""
        return super().wall() + self._ahead

    def boot(self) -> str | None:
        """Return the name of this boot."""
        return self._name or super().boot()


def say(word: str) -> None:
    """Write a line to whoever started this process."""
    print(word, flush=True)  # noqa: T201 - how a child talks


def draw(path: str, log: str, count: int) -> None:
    """Take `count` nonces by a clock that stands still, logging each, once told to begin."""
    with SQLiteStore(path, timeout=60, clock=StillWall()) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        writer = Log(Path(log))
        say("ready")
        sys.stdin.readline()
        writer.draw(provider, count, plain=True)


def draw_on(path: str, log: str) -> None:
    """Take nonces, logging each, until killed; open the store anew now and then."""
    writer = Log(Path(log))
    say("ready")
    while True:
        with SQLiteStore(path, timeout=60) as store:
            writer.draw(NonceProvider(store, KEY, unit="ns"), 500)


def next_by(path: str, seconds: float, boot: str = "") -> int:
    """Take one nonce by a clock set `seconds` ahead, in another boot unless it is empty."""
    with SQLiteStore(path, clock=Shifted(seconds, boot)) as store:
        return NonceProvider(store, KEY).next()


def hold_lock(path: str) -> None:
    """Hold the kernel's lock of a store until told to end."""
    descriptor = os.open(f"{path}.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    say("ready")
    sys.stdin.readline()


def live(path: str) -> None:
    """Begin a session, write its name, and live until told to end."""
    with SQLiteStore(path) as store:
        say(store.session().name)
        say("ready")
        sys.stdin.readline()
