"""The checker of histories: was every value new, and greater than all that had been handed out before it was asked for?

A strictly increasing counter needs no general linearizability checker: the values order the history.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from time import monotonic_ns
from typing import Final, NamedTuple

from persistent_nonce.provider import NonceProvider

__all__ = ["Log", "Operation", "read_logs", "violations"]

_RECORD: Final = struct.Struct("<3q")

#: No more violations than these are described.
_SHOWN: Final = 20


class Operation(NamedTuple):
    """One value: when it was asked for and when it was there, on CLOCK_MONOTONIC, which all processes share."""

    call: int
    returned: int
    value: int


def violations(history: Iterable[Operation]) -> list[str]:
    """Return what breaks I1 (unique) or I2 (ordered) in `history`; O(n log n).

    Operations without a return, of killed processes, are to be left out.
    """
    by_call = sorted(history)
    by_return = sorted(by_call, key=attrgetter("returned"))
    found = []
    owner: dict[int, Operation] = {}
    greatest, passed = None, 0
    for operation in by_call:
        while by_return[passed].returned < operation.call:
            value = by_return[passed].value
            greatest = value if greatest is None else max(greatest, value)
            passed += 1
        if greatest is not None and operation.value <= greatest:
            found.append(f"{operation} began after {greatest} had been returned")
        if operation.value in owner:
            found.append(f"{operation} has the value of {owner[operation.value]}")
        owner[operation.value] = operation
    return found[:_SHOWN]


class Log:
    """A file of operations, each written before its value is used, so that a killed process leaves all but its last."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)

    def add(self, operation: Operation) -> None:
        """Write one operation."""
        os.write(self._descriptor, _RECORD.pack(*operation))

    def draw(self, provider: NonceProvider, count: int, *, plain: bool = False) -> None:
        """Take `count` nonces, one after the other; `plain` ones each in a transaction of its own."""
        write, descriptor = os.write, self._descriptor
        take: Callable[[], int] = provider.next
        if plain:
            take = lambda: provider.reserve(1)[0]  # noqa: E731 - to be called as the other one is
        for _ in range(count):
            call = monotonic_ns()
            value = take()
            write(descriptor, _RECORD.pack(call, monotonic_ns(), value))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_logs(directory: Path) -> list[Operation]:
    """Return the operations of all `*.log` files in `directory`; a last one cut off by a kill is left out."""
    found: list[Operation] = []
    for path in sorted(directory.glob("*.log")):
        data = path.read_bytes()
        whole = len(data) - len(data) % _RECORD.size
        found += map(Operation._make, _RECORD.iter_unpack(data[:whole]))
    return found
