"""Damage done to the files of a database, by another process where the test's own has them open."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.support.disk_actor import Crew
from tests.support.disk_faults import beside
from tests.support.disk_ledger import Ledger
from tests.support.processes import Child

__all__ = ["Patient", "flip", "operate"]

_PAGE: Final = 1024
_HEADER: Final = 100


def flip(path: str, offset: int, bit: int) -> None:
    """Flip a bit of a file."""
    descriptor = os.open(path, os.O_RDWR)
    (byte,) = os.pread(descriptor, 1, offset)
    os.pwrite(descriptor, bytes([byte ^ 1 << bit]), offset)
    os.close(descriptor)


def operate() -> None:
    """Flip the bits that are told, one a line, until told no more; run as a process of its own."""
    for line in sys.stdin:
        if not line.strip():
            return
        path, offset, bit = line.rsplit(" ", 2)
        flip(path, int(offset), int(bit))
        print("done", flush=True)  # noqa: T201 - how a child talks


class Patient:
    """A database that a killed process left, with its log and marks, of which each trial gets a copy.

    Attributes:
        calls: how many call records it has.
    """

    def __init__(self, directory: Path) -> None:
        self._original = directory / "original" / "nonces.db"
        self._original.parent.mkdir(0o700)
        with Crew(self._original) as crew:
            actor = crew.open()
            actor.begin()
            for _ in range(6):
                assert actor.call() == []
            actor.checkpoint()
            assert actor.take(3) == []
            assert actor.call() == []
        self._issued = dict(crew.ledger.greatest)
        self.calls = 8
        self.path = directory / "copy" / "nonces.db"
        self.path.parent.mkdir(0o700)

    def copy(self, *, log: bool = True) -> Ledger:
        """Make a fresh copy, with or without its log; return what was issued of it."""
        for file in self.path.parent.iterdir():
            if file.is_file():
                file.unlink()
        for suffix in ("", "-wal", ".marks")[:: 1 if log else 2]:
            shutil.copy2(beside(self._original, suffix), beside(self.path, suffix))
        ledger = Ledger()
        ledger.greatest |= self._issued
        return ledger

    def bit(self, dice: random.Random) -> tuple[str, int, int]:
        """Choose a bit of the database or its log."""
        sizes = {
            str(file): file.stat().st_size
            for file in (self.path, beside(self.path, "-wal"))
            if file.exists()
        }
        at = dice.randrange(sum(sizes.values()))
        for file, size in sizes.items():
            if at < size:
                return file, at, dice.randrange(8)
            at -= size
        raise AssertionError

    def flip_by(self, surgeon: Child, dice: random.Random) -> str:
        """Have another process flip a bit; return which."""
        where = " ".join(map(str, self.bit(dice)))
        surgeon.tell(where)
        surgeon.wait_for("done")
        return where
