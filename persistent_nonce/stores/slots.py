"""A mark, as it lies in a slot of the file of marks.

A slot has 32 bytes, little-endian, in the order in which the keys came; zeros are free:

    8  the key's fingerprint
    8  the revision of the row that was committed: the epoch of the key's leases
    8  the mark, in ticks
    1  its unit, counted from the coarsest, and 3 zeros
    4  CRC-32 of these 28 bytes
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from persistent_nonce.state import DEFAULT_UNIT, UNITS, KeyState

__all__ = [
    "NAME",
    "SIZE",
    "Mark",
    "decode",
    "encode",
    "is_late",
    "names",
    "survey",
    "voids",
    "went_back",
]

_BODY: Final = Struct("<8sQqB3x")

#: Bytes of a slot, and of the name at its beginning.
SIZE: Final = _BODY.size + 4
NAME: Final = 8

_FREE: Final = bytes(SIZE)

_UNITS: Final = tuple(UNITS)
_NUMBER: Final = {unit: number for number, unit in enumerate(_UNITS)}


class Mark(NamedTuple):
    """What is known of a key beside its row."""

    key: str
    revision: int  # 0: of no row; nobody knows the key's last nonce
    nonce: int
    unit: str

    @property
    def told(self) -> str:
        """What it says, in words."""
        if not self.revision:
            return "nobody knows what was used"
        return f"{self.nonce} ({self.unit}) was used"


def encode(mark: tuple[str, int, int, str]) -> bytes:
    """Return the slot of a mark."""
    key, revision, nonce, unit = mark
    body = _BODY.pack(bytes.fromhex(key), revision, nonce, _NUMBER[unit])
    return body + crc32(body).to_bytes(4, "little")


def decode(slot: bytes) -> Mark | None:
    """Return the mark in a slot, or None if it is free or damaged."""
    if len(slot) != SIZE or slot == _FREE:
        return None
    body = slot[: _BODY.size]
    name, revision, nonce, unit = _BODY.unpack(body)
    check = crc32(body).to_bytes(4, "little")
    if slot[_BODY.size :] != check or unit >= len(_UNITS):
        return None
    return Mark(name.hex(), revision, nonce, _UNITS[unit])


def survey(content: bytes) -> tuple[dict[str, tuple[Mark, int]], int]:
    """Return the mark of each key with its offset, and how many slots are damaged.

    A key has one slot. Of two, which only a file that was changed by others can have, the greater mark is the truth:
    the other was left behind.
    """
    found: dict[str, tuple[Mark, int]] = {}
    damaged = 0
    for offset in range(0, len(content), SIZE):
        slot = content[offset : offset + SIZE]
        mark = decode(slot)
        if mark is not None:
            other = found.get(mark.key)
            if other is None or _age(mark) > _age(other[0]):
                found[mark.key] = mark, offset
        elif slot.strip(b"\0"):
            damaged += 1
    return found, damaged


def _age(mark: Mark) -> tuple[int, int]:
    return mark.nonce * UNITS[mark.unit], mark.revision


def names(slots: bytes) -> list[bytes]:
    """Return the names in all slots: of each its first byte, then of each its second."""
    return [slots[place::SIZE] for place in range(NAME)]


def went_back(state: KeyState, mark: Mark, boot: str) -> bool:
    """Whether `state`, as it is stored, is older than its mark.

    Within one boot nothing that was committed is lost. After another boot commits may be, down to the ceiling.
    """
    known = state.nonce
    if state.boot != boot:
        known = max(known, state.ceiling)
    return mark.nonce * UNITS[mark.unit] > known * state.tick


def is_late(state: KeyState, mark: Mark | None, boot: str) -> bool:
    """Whether the mark of `state` was not written yet: whoever committed it was killed, or failed, between the two.

    It must be before anything follows from the state: else a block of nonces below it stays in use (I2).
    """
    if not state.nonce or state.boot != boot:
        return False
    if mark is not None and not mark.revision and state.closed:
        return False  # what it tells must outlast this row: that nobody knows the last nonce
    known = (state.nonce, state.unit or DEFAULT_UNIT)
    return mark is None or (mark.nonce, mark.unit) != known


def voids(before: KeyState, after: KeyState) -> bool:
    """Whether no block of nonces taken before may be used any more: the mark has moved, or what may be issued."""
    return (before.nonce, before.closed, before.greatest, before.max_lead) != (
        after.nonce,
        after.closed,
        after.greatest,
        after.max_lead,
    )
