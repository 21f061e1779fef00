"""What can happen to a file of a database: it is deleted, renamed, replaced, emptied, cut, damaged, or an older one."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

__all__ = ["FAULTS", "MOVING", "Older", "beside"]

#: Takes a file, an older copy of it if there is one, and dice.
Fault: TypeAlias = Callable[[Path, Path, random.Random], None]


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file of a database."""
    return path.with_name(path.name + suffix)


class Older:
    """Copies of a database's files as they were once."""

    def __init__(self, path: Path, directory: Path) -> None:
        directory.mkdir()
        for file in path.parent.iterdir():
            if file.is_file():
                shutil.copy2(file, directory)
        self._directory = directory

    def of(self, file: Path) -> Path:
        """Return the older copy of a file, which may not exist."""
        return self._directory / file.name


def _delete(file: Path, _: Path, dice: random.Random) -> None:
    file.unlink(missing_ok=True)


def _rename(file: Path, _: Path, dice: random.Random) -> None:
    if file.exists():
        file.rename(f"{file}.moved")


def _replace(file: Path, _: Path, dice: random.Random) -> None:
    if file.exists():
        shutil.copy2(file, f"{file}.copy")
        os.replace(f"{file}.copy", file)


def _older(file: Path, older: Path, dice: random.Random) -> None:
    if older.exists():
        shutil.copy2(older, f"{file}.copy")
        os.replace(f"{file}.copy", file)


def _older_inside(file: Path, older: Path, dice: random.Random) -> None:
    if older.exists():
        _write(file, older.read_bytes())


def _empty(file: Path, _: Path, dice: random.Random) -> None:
    _write(file, b"")


def _cut(file: Path, _: Path, dice: random.Random) -> None:
    if file.exists():
        os.truncate(file, dice.randint(0, file.stat().st_size))


def _overwrite(file: Path, older: Path, dice: random.Random) -> None:
    content = bytearray(file.read_bytes()) if file.exists() else bytearray()
    for _ in range(dice.choice([1, 4, 16])):
        start = dice.randint(0, len(content))
        length = dice.choice([1, 16, 1024])
        content[start : start + length] = dice.randbytes(
            min(length, len(content) - start)
        )
    _write(file, bytes(content))


def _write(file: Path, content: bytes) -> None:
    """Write into the file as it is, in the way of `cp`: the inode stays."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.truncate(descriptor, len(content))
        os.pwrite(descriptor, content, 0)
    finally:
        os.close(descriptor)


FAULTS: Final[dict[str, Fault]] = {
    "deleted": _delete,
    "renamed": _rename,
    "replaced": _replace,
    "older in its place": _older,
    "older written into it": _older_inside,
    "emptied": _empty,
    "cut": _cut,
    "overwritten": _overwrite,
}

#: Those after which another file, or none, has the name.
MOVING: Final = ("deleted", "renamed", "replaced", "older in its place")
