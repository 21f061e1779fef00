"""What the processes of a soak's storm share: a board of numbers, a clock that is stepped, files, and a canary."""

from __future__ import annotations

import fcntl
import mmap
import struct
import time
from pathlib import Path
from typing import Final

from persistent_nonce.clock import SystemClock
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.checker import Log

__all__ = ["GATED", "KEY", "PATIENCE", "SCALE", "Board", "Canary", "Scene"]

KEY: Final = "the key of the soak"
GATED: Final = "the key of the soak's gate"

#: How many times as fast as the machine's the clock of the exchange and its clients runs.
SCALE: Final = 20

#: Seconds a wait may take: a guard, since whoever is waited for may be stopped.
PATIENCE: Final = 60.0

_WORD: Final = struct.Struct("=q")


class Board:
    """Numbers in memory that all processes of the soak share, each under a name; a kill tears none of them."""

    NAMES: Final = (
        "offset",  # of the clock from the machine's, in ns
        "round",  # 0 while the survivor is to rest
        "begun",  # the last round that the survivor has begun
        "rested",  # the last round that the survivor has ended
        "descriptors",  # of the survivor
        "memory",  # of the survivor, in bytes
        "interrupts",
        "overlaps",
    )

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def __getitem__(self, name: str) -> int:
        number: int = _WORD.unpack_from(self._memory, 8 * self.NAMES.index(name))[0]
        return number

    def __setitem__(self, name: str, number: int) -> None:
        _WORD.pack_into(self._memory, 8 * self.NAMES.index(name), number)


class SteppedClock(SystemClock):
    """The machine's clock, whose wall clock is stepped by whoever writes `offset` on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def wall(self) -> int:
        """Return nanoseconds since 1970."""
        return time.time_ns() + self._board["offset"]


class Scene:
    """Where the storm takes place.

    Args:
        directory: of the databases.
        board: what all processes see.
        url: of the exchange.
        account: its key and secret.
    """

    def __init__(
        self, directory: Path, board: Board, url: str, account: tuple[str, str]
    ) -> None:
        self.board = board
        self.url = url
        self.account = account
        self.database = directory / "nonces.db"
        self.trades = directory / "trades.db"
        self.logs = directory / "logs"
        self.canary = directory / "canary"

    def store(self) -> SQLiteStore:
        """Open the store, by the clock that steps."""
        clock = SteppedClock(self.board)
        return SQLiteStore(self.database, timeout=PATIENCE, clock=clock)

    def log(self, kind: str, name: object) -> Log:
        """Open a log of operations: of nonces, calls or trades."""
        (self.logs / kind).mkdir(parents=True, exist_ok=True)
        return Log(self.logs / kind / f"{name}.log")


class Canary:
    """A lock of the kernel's that a call takes and never waits for: it tells of two calls in flight at once.

    To be made before the store: the files of a dead process are closed in the order of their descriptors, and no
    other process is to find its session ended while this lock is still held.
    """

    def __init__(self, scene: Scene) -> None:
        self._file = open(scene.canary, "wb")  # noqa: SIM115 - open as long as its process lives
        self._board = scene.board
        self._inside = 0

    def __enter__(self) -> None:
        self._inside += 1
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = self._inside == 1
        except BlockingIOError:
            alone = False
        if not alone:
            self._board["overlaps"] += 1

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        fcntl.flock(self._file, fcntl.LOCK_UN)
