"""What the processes of a soak's storm share: a board of numbers, a clock that is stepped, files, and a canary."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from persistent_nonce.clock import SystemClock
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.checker import Log
from tests.support.power_disk import enter_private_mounts

__all__ = ["GATED", "KEY", "PATIENCE", "SCALE", "Board", "Canary", "Scene"]

KEY: Final = "the key of the soak"
GATED: Final = "the key of the soak's gate"

#: How many times as fast as the machine's the clock of the exchange and its clients runs.
SCALE: Final = 20

#: Seconds a wait may take: a guard, since whoever is waited for may be stopped.
PATIENCE: Final = 60.0

_WORD: Final = struct.Struct("=q")

#: Bytes of the disk that is filled: several times what the databases and their logs need.
_DISK: Final = 48 << 20

#: What is said of it; the second while a stopped reader keeps what the disk has from being checked.
_FULL: Final = re.compile("the disk is full|cannot be checked yet")

T = TypeVar("T")


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
        "full",  # attempts that met a full disk
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
        directory: of the logs, and of the disk that the databases are on.
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
        self.disk = directory / "disk"
        self.disk.mkdir(exist_ok=True)
        self.database = self.disk / "nonces.db"
        self.trades = self.disk / "trades.db"
        self.logs = directory / "logs"
        self.canary = directory / "canary"

    def store(self) -> SQLiteStore:
        """Open the store, by the clock that steps."""
        clock = SteppedClock(self.board)
        return self.patiently(
            lambda: SQLiteStore(self.database, timeout=PATIENCE, clock=clock)
        )

    def patiently(self, work: Callable[[], T]) -> T:
        """Do `work`, again as long as the disk is full."""
        while True:
            try:
                return work()
            except StoreUnavailableError as error:
                self.met(error)
                time.sleep(0.01)

    def met(self, error: StoreUnavailableError) -> None:
        """Count an attempt that met a full disk, or one that was; any other error is raised again."""
        if not _FULL.search(str(error)):
            raise error
        self.board["full"] += 1

    def mount(self) -> str:
        """Give the databases a small disk of their own; return why that is not possible here, "" if it is."""
        if os.geteuid() or not shutil.which("mount"):
            return "only root can mount a disk to be filled"
        try:
            enter_private_mounts()
        except OSError as error:
            return str(error)
        size = f"size={_DISK},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", size, "none", str(self.disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        return done.stderr.strip()

    def unmount(self) -> None:
        """Give the disk up, and all that is on it."""
        subprocess.run(["umount", "--lazy", str(self.disk)], check=True)  # noqa: S603, S607 - our own arguments

    def fill(self) -> None:
        """Leave no room on the disk, until `free`."""
        with suppress(OSError), open(self.disk / "ballast", "ab", 0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))

    def free(self) -> None:
        """Make room again."""
        (self.disk / "ballast").unlink(missing_ok=True)

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
