"""The marks beside a database: of each key the last nonce that left, so that a database that went back is noticed.

A mark is written after the commit of its nonce has returned and before the nonce leaves, under the store's lock. It
never lies above what was put on the disk as the key's ceiling, so that a power cut, which may keep the mark and lose
the nonce's commit, leaves nothing to complain of. The file is not synced: of two witnesses one may be late.

A slot that is damaged refuses its key (I9): the next nonce would be written over it, and nothing would ever tell that
the database had gone back. While one is there, so is every key without a mark, whose it may be. No kill and no fsync
that was missed leaves one, since a slot lies within one sector; `recover` is the way out. A mark that is not there at
all refuses nobody: that is how every key begins, and a file that was emptied looks the same.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from persistent_nonce.errors import StoreCorruptError
from persistent_nonce.state import DEFAULT_UNIT, KeyState
from persistent_nonce.stores.base import Epoch
from persistent_nonce.stores.failures import RECOVER
from persistent_nonce.stores.place import open_beside, sync
from persistent_nonce.stores.slots import (
    NAME,
    SIZE,
    Mark,
    decode,
    encode,
    names,
    survey,
)

__all__ = ["Marks", "path_of", "read_marks", "refuse_loss", "replace_marks"]

_LOG: Final = logging.getLogger("persistent_nonce")

_NOTHING: Final = ("", 0, b"")

#: Bytes by which the file grows: a block of the disk, so that no later write needs a new one.
_GROWTH: Final = 4096

#: Bytes of an epoch, as the file is read by who leases.
_WORD: Final = 8
_VOID: Final = Epoch((0,), 0, 1)


def path_of(database: Path) -> Path:
    """Return the path of the marks of a database."""
    return database.with_name(database.name + ".marks")


def read_marks(path: Path) -> tuple[dict[str, Mark], int]:
    """Return the marks in a file by key, and how many slots are damaged; a file that is missing has none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        # A pipe would be waited for; who opens the store refuses it.
        regular = stat.S_ISREG(os.stat(path).st_mode)
        content = path.read_bytes() if regular else b""
    except FileNotFoundError:
        return {}, 0
    places, damaged = survey(content)
    return {key: mark for key, (mark, _) in places.items()}, damaged


def refuse_loss(database: Path) -> None:
    """Raise StoreCorruptError if there are marks, for a database that is missing or empty: it was not so at first."""
    found, damaged = read_marks(path_of(database))
    if found or damaged:
        raise StoreCorruptError(
            f"{database} is missing or empty, but marks of {len(found) + damaged} keys "
            "lie beside it; no nonce was issued",
            RECOVER,
        )


def replace_marks(database: Path, marks: Iterable[Mark], *, shared: bool) -> None:
    """Put a file of these marks in the place of the one there is, in one piece, and on the disk; under the lock.

    Whoever has the old one open is stopped by it: they compare the files.
    """
    content = b"".join(map(encode, marks))
    content += bytes(-len(content) % _GROWTH)
    path = path_of(database)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # of one that was killed
    try:
        descriptor = open_beside(database, ".marks.new", shared=shared)
        try:
            if os.pwrite(descriptor, content, 0) != len(content):
                raise _full()
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


class Marks:
    """The file of marks. Every method is to be called under the store's lock.

    Args:
        database: the database whose marks they are.
        shared: for the mode of the file, if it is made.
    """

    def __init__(self, database: Path, *, shared: bool) -> None:
        self._database = database
        self._shared = shared
        self._descriptor = -1
        self._slots: dict[str, int] = {}  # where they were when last looked for
        self._whole, self._names = 0, names(b"")  # of the good ones at the beginning
        self._free = 0  # the first slot that was free
        self._last = _NOTHING  # the key last read or written, where, and its slot
        self._words = memoryview(b"")  # the file as all see it, in words of 8 bytes

    def open(self) -> str:
        """Open the file, which is made if missing, and return which one it is.

        Raises:
            StoreError: it cannot be opened or trusted.
        """
        self._descriptor = open_beside(self._database, ".marks", shared=self._shared)
        found = os.fstat(self._descriptor)
        return f"{found.st_dev}:{found.st_ino}"

    def knows(self, key: str) -> bool:
        """Whether a mark of `key` was seen here before."""
        return key in self._slots

    def find(self, key: str) -> Mark | None:
        """Return the mark of `key`, if there is one.

        Raises:
            StoreCorruptError: a slot is damaged that may be the key's.
        """
        known = self._slots.get(key)
        if known is not None:
            slot = os.pread(self._descriptor, SIZE, known)
            mark = decode(slot)
            if mark is not None and mark.key == key:
                self._last = (key, known, slot)
                return mark
            self._whole, self._slots = 0, {}  # it was cut, damaged or begun anew
        self._last = _NOTHING
        damaged = self._look()
        if key in self._slots:
            return self.find(key)
        if damaged:
            raise StoreCorruptError(
                f"the marks beside {self._database} are damaged: the last nonce of key {key} "
                "cannot be checked; no nonce was issued",
                RECOVER,
            )
        if known is not None:
            _LOG.warning("the mark of key %s is gone: its file was emptied", key)
        return None

    def stands(self, key: str) -> bool:
        """Whether the mark of `key` is the one last read or written here: nobody else has used a nonce since.

        Who remembers a row must ask: a database that went back to this very row looks as if nothing had happened.
        """
        name, offset, slot = self._last
        return name == key and os.pread(self._descriptor, SIZE, offset) == slot

    def write(self, state: KeyState, revision: int) -> None:
        """Write the mark of a state that was committed as this revision of its row.

        Raises:
            OSError: it cannot be written.
        """
        key = state.key
        name, offset, _ = self._last
        if name != key:
            offset = self._take(key)
        slot = encode((key, revision, state.nonce, state.unit or DEFAULT_UNIT))
        if os.pwrite(self._descriptor, slot, offset) != SIZE:
            raise _full()
        self._last = (key, offset, slot)
        self._slots[key] = offset

    def epoch(self, key: str) -> Epoch:
        """Return the epoch of `key`, whose mark was just written; one that is void already if it cannot be shown."""
        name, offset, slot = self._last
        index = (offset + NAME) // _WORD
        if name != key:
            return _VOID
        if index >= len(self._words):
            self.void()
            try:
                self._words = _shown(self._descriptor)
            except (OSError, ValueError):  # no memory, or no descriptor, for it
                return _VOID
        value = int.from_bytes(slot[NAME : NAME + _WORD], sys.byteorder)
        return Epoch(self._words, index, value)

    def void(self) -> None:
        """Let no epoch be read any more that was given out."""
        words, self._words = self._words, memoryview(b"")
        words.release()

    def _look(self) -> int:
        """Learn which slot is whose, and return how many are damaged.

        Of the good ones at the beginning only the names are compared: each new key would have all others decoded.
        """
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        if names(content[: self._whole]) != self._names:
            self._whole, self._slots = 0, {}
        begin = self._free = self._whole
        places, damaged = survey(content[begin:])
        for key, (_, offset) in places.items():
            self._slots.setdefault(key, begin + offset)
        while content[self._free : self._free + SIZE].strip(b"\0"):
            self._free += SIZE
        if not damaged and self._free == begin + len(places) * SIZE:  # none twice
            self._whole = self._free
        self._names = names(content[: self._whole])
        return damaged

    def _take(self, key: str) -> int:
        """Return the slot of `key`, or else the first free one."""
        if os.pread(self._descriptor, SIZE, self._free).strip(b"\0"):
            self._look()
        offset = self._slots.get(key, self._free)
        if os.fstat(self._descriptor).st_size < offset + SIZE:
            zeros = bytes(_GROWTH)
            if os.pwrite(self._descriptor, zeros, offset) != _GROWTH:
                raise _full()
        return offset

    def close(self) -> None:
        """Close the file."""
        self.void()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _shown(descriptor: int) -> memoryview:
    """Return an open file as all see it who write it, in words; to be read only (what is cut off it must not be)."""
    content = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    return content[: len(content) // _WORD * _WORD].cast("Q")


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
