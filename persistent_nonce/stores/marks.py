"""The marks beside a database: of each key the last nonce that left, so that a database that went back is noticed.

A mark is written after the commit of its nonce has returned and before the nonce leaves, under the store's lock. It
never lies above what was put on the disk as the key's ceiling, so that a power cut, which may keep the mark and lose
the nonce's commit, leaves nothing to complain of. The file is not synced: of two witnesses one may be late.

The file `<database>.marks` has 32 bytes a key, little-endian, in the order in which the keys came; zeros are free:

    8  the key's fingerprint
    8  the revision of the row that was committed
    8  the mark, in ticks
    1  its unit, counted from the coarsest, and 3 zeros
    4  CRC-32 of these 28 bytes
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from persistent_nonce.errors import StoreCorruptError
from persistent_nonce.state import DEFAULT_UNIT, UNITS, KeyState
from persistent_nonce.stores.failures import RECOVER
from persistent_nonce.stores.place import open_beside

__all__ = ["Mark", "Marks", "path_of", "read_marks", "refuse_loss", "went_back"]

_LOG: Final = logging.getLogger("persistent_nonce")

_BODY: Final = Struct("<8sQqB3x")
_SIZE: Final = _BODY.size + 4
_NAME: Final = 8
_FREE: Final = bytes(_SIZE)
_NOTHING: Final = ("", 0, b"")

#: Bytes by which the file grows: a block of the disk, so that no later write needs a new one.
_GROWTH: Final = 4096

_UNITS: Final = tuple(UNITS)
_NUMBER: Final = {unit: number for number, unit in enumerate(_UNITS)}


class Mark(NamedTuple):
    """What is known of a key beside its row."""

    key: str
    revision: int
    nonce: int
    unit: str


def path_of(database: Path) -> Path:
    """Return the path of the marks of a database."""
    return database.with_name(database.name + ".marks")


def read_marks(path: Path) -> tuple[dict[str, Mark], int]:
    """Return the marks in a file by key, and how many slots are damaged; a file that is missing has none.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    found: dict[str, Mark] = {}
    damaged = 0
    for start in range(0, len(content), _SIZE):
        slot = content[start : start + _SIZE]
        mark = _decode(slot)
        if mark is not None:
            found[mark.key] = mark
        elif slot.strip(b"\0"):
            damaged += 1
    return found, damaged


def went_back(state: KeyState, mark: Mark, boot: str) -> bool:
    """Whether `state`, as it is stored, is older than its mark.

    Within one boot nothing that was committed is lost. After another boot commits may be, down to the ceiling.
    """
    known = state.nonce
    if state.boot != boot:
        known = max(known, state.ceiling)
    return mark.nonce * UNITS[mark.unit] > known * state.tick


def refuse_loss(database: Path) -> None:
    """Raise StoreCorruptError if there are marks, for a database that is missing or empty: it was not so at first."""
    found, damaged = read_marks(path_of(database))
    if found or damaged:
        raise StoreCorruptError(
            f"{database} is missing or empty, but marks of {len(found) + damaged} keys "
            "lie beside it; no nonce was issued",
            RECOVER,
        )


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
        self._slots: dict[str, int] = {}
        self._end = 0  # slots below it are in use
        self._last = _NOTHING  # the key last read or written, where, and its slot

    def open(self) -> None:
        """Open the file, which is made if missing.

        Raises:
            StoreError: it cannot be opened or trusted.
        """
        self._descriptor = open_beside(self._database, ".marks", shared=self._shared)

    def find(self, key: str) -> Mark | None:
        """Return the mark of `key`, if there is one that can be read."""
        offset = self._offset(key)
        if offset is None:
            return None
        slot = os.pread(self._descriptor, _SIZE, offset)
        self._last = (key, offset, slot)
        mark = _decode(slot)
        if mark is None:
            _LOG.warning("the mark of key %s is damaged", key)
        elif mark.key != key:  # the file was cut, and begun anew
            self._slots.clear()
            self._end, self._last = 0, _NOTHING
            return self.find(key)
        return mark

    def stands(self, key: str) -> bool:
        """Whether the mark of `key` is the one last read or written here: nobody else has used a nonce since.

        Who remembers a row must ask: a database that went back to this very row looks as if nothing had happened.
        """
        name, offset, slot = self._last
        return name == key and os.pread(self._descriptor, _SIZE, offset) == slot

    def write(self, state: KeyState, revision: int) -> None:
        """Write the mark of a state that was committed as this revision of its row.

        Raises:
            OSError: it cannot be written.
        """
        key, unit = state.key, _NUMBER[state.unit or DEFAULT_UNIT]
        name, offset, _ = self._last
        if name != key:
            found = self._offset(key)
            offset = self._take(key) if found is None else found
        body = _BODY.pack(bytes.fromhex(key), revision, state.nonce, unit)
        slot = body + crc32(body).to_bytes(4, "little")
        if os.pwrite(self._descriptor, slot, offset) != _SIZE:
            raise _full()
        self._last = (key, offset, slot)

    def _offset(self, key: str) -> int | None:
        """Return where the slot of `key` is; looks at those that others have taken since."""
        if key not in self._slots:
            size = os.fstat(self._descriptor).st_size
            content = os.pread(self._descriptor, size, self._end)
            for start in range(0, len(content) - _SIZE + 1, _SIZE):
                if content.startswith(_FREE, start):
                    break
                name = content[start : start + _NAME].hex()
                self._slots[name] = self._end
                self._end += _SIZE
        return self._slots.get(key)

    def _take(self, key: str) -> int:
        """Return the first free slot, which becomes that of `key`."""
        offset = self._end
        if os.fstat(self._descriptor).st_size < offset + _SIZE:
            zeros = bytes(_GROWTH)
            if os.pwrite(self._descriptor, zeros, offset) != _GROWTH:
                raise _full()
        self._slots[key] = offset
        self._end += _SIZE
        return offset

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _decode(slot: bytes) -> Mark | None:
    """Return the mark in a slot, or None if it is free or damaged."""
    if len(slot) != _SIZE or slot == _FREE:
        return None
    body = slot[: _BODY.size]
    name, revision, nonce, unit = _BODY.unpack(body)
    check = crc32(body).to_bytes(4, "little")
    if slot[_BODY.size :] != check or unit >= len(_UNITS):
        return None
    return Mark(name.hex(), revision, nonce, _UNITS[unit])
