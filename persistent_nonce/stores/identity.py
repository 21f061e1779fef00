"""Whether the files of a store are still those it opened.

A WAL database that was unlinked, renamed or replaced goes on issuing from the dead file; an unlinked `-wal` or `-shm`
splits its users in two; a replaced lock file admits two holders; marks that were deleted warn nobody. So each
transaction compares, under the lock.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from persistent_nonce.errors import StoreReplacedError

__all__ = ["Files"]

#: Nanoseconds between two times that a file system tells apart, generously (Linux: one tick, 1 to 10 ms).
_GRAIN: Final = 2_000_000_000

_SUFFIXES: Final = ("", ".lock", ".marks", "-wal", "-shm")


class Files:
    """Device and inode of the database, its lock file, marks, `-wal` and `-shm`, as they were recorded."""

    def __init__(self, path: Path) -> None:
        self._paths = [f"{path}{suffix}" for suffix in _SUFFIXES]
        self._directory = os.path.dirname(path)
        self._recorded: list[tuple[int, int]] = []
        self._quiet: tuple[int, int, int] | None = None

    def record(self) -> None:
        """Remember the files as they are; to be called under the lock, inside the first transaction."""
        self._recorded = self._look()

    def check(self) -> None:
        """Raise StoreReplacedError if a file was deleted or replaced since.

        That changes the directory's time too, so that one look at it stands for all as long as it is quiet. A time
        counts only when it is so old that no later change can have got the same one. It is the time of change of the
        inode, which nobody can set: a backup put back by rsync or tar restores the other one.
        """
        found = os.stat(self._directory)
        directory = (found.st_dev, found.st_ino, found.st_ctime_ns)
        if directory == self._quiet:
            return
        if self._look() != self._recorded:
            raise self._difference()
        if time.time_ns() - found.st_ctime_ns > _GRAIN:
            self._quiet = directory

    def may_be_closed(self) -> bool:
        """Whether a connection to the recorded files can be closed without harm to another's.

        The last to close unlinks `-wal` and `-shm` by name: they have to be its own, or gone.
        """
        database, _, _, *others = zip(self._paths, self._recorded, strict=False)
        return _identity(database[0]) == database[1] and all(
            _identity(path) in (recorded, (0, 0)) for path, recorded in others
        )

    def check_lock(self, descriptor: int) -> None:
        """Raise StoreReplacedError if the lock file is not the one that is open as `descriptor`."""
        held = os.fstat(descriptor)
        if _identity(self._paths[1]) != (held.st_dev, held.st_ino):
            raise _replaced(self._paths[1])

    def _look(self) -> list[tuple[int, int]]:
        try:
            stat = os.stat
            return [((s := stat(path)).st_dev, s.st_ino) for path in self._paths]
        except FileNotFoundError:
            raise self._difference() from None

    def _difference(self) -> StoreReplacedError:
        for path, recorded in zip(self._paths, self._recorded, strict=False):
            if _identity(path) != recorded:
                return _replaced(path)
        return _replaced(self._paths[0])


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


def _replaced(path: str) -> StoreReplacedError:
    return StoreReplacedError(
        f"{path} was deleted or replaced while in use; no nonce was issued",
        "stop all programs of this store, then run: persistent-nonce doctor",
    )
