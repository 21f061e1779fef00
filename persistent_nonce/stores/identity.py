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

_GONE: Final = (0, 0)

#: Nanoseconds between two times that a file system tells apart, generously (Linux: one tick, 1 to 10 ms).
_GRAIN: Final = 2_000_000_000

_SUFFIXES: Final = ("", ".lock", ".marks", "-wal", "-shm")


class Files:
    """Device and inode of the database, its lock file, marks, `-wal` and `-shm`, as they were recorded."""

    def __init__(self, path: Path) -> None:
        self._paths = [f"{path}{suffix}" for suffix in _SUFFIXES]
        self._directory = os.path.dirname(path)
        self._recorded = [_GONE] * len(_SUFFIXES)
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
        """Whether a connection to the recorded files can be closed without harm to another's; asked under the lock.

        The last to close unlinks `-wal` and `-shm` by name: they have to be gone, or its own with the database at its
        place. Under a lock file that is not the one held they may be made anew meanwhile, unless all was deleted.
        """
        try:
            found = [_identity(path) for path in self._paths]
        except OSError:
            return False
        if found.count(_GONE) == len(found):
            return True
        database, lock, _, *beside = self._recorded
        if found[1] != lock:
            return False
        if found[0] != database:
            return found[3:] == [_GONE, _GONE]
        pairs = zip(found[3:], beside, strict=True)
        return all(file in (recorded, _GONE) for file, recorded in pairs)

    def are_split(self) -> bool:
        """Whether a new connection to the database would be given the `-wal` and `-shm` of two sets of users."""
        found = [_identity(path) for path in self._paths]
        return found[0] == self._recorded[0] and found[3:] != self._recorded[3:]

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
        for path, recorded in zip(self._paths, self._recorded, strict=True):
            if _identity(path) != recorded:
                return _replaced(path)
        return _replaced(self._paths[0])


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return _GONE
    return (status.st_dev, status.st_ino)


def _replaced(path: str) -> StoreReplacedError:
    return StoreReplacedError(
        f"{path} was deleted or replaced while in use; no nonce was issued",
        "stop all programs of this store, then run: persistent-nonce doctor",
    )
