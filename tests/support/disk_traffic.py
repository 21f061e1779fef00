"""Programs that take nonces while their files are replaced or copied; started by `tests.support.processes`."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import StoreError
from tests.support.checker import Log
from tests.support.clocks import StillWall
from tests.support.workers import KEY

__all__ = ["back_up", "draw_through", "set_ahead"]


def set_ahead(path: str) -> None:
    """Let the key run ten minutes ahead of the clock, so that the clock makes up for nothing."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        provider.raise_floor(provider.next() + 600 * SECOND)


def draw_through(path: str, log: str) -> tuple[int, dict[str, int]]:
    """Take nonces until the file `<log>.end` is there; after an error open the store anew.

    Two who hold different locks may also get in each other's way, and are told so by SQLite or the marks.

    Returns:
        how many were taken, at least, and how often which error was told.
    """
    writer, end = Log(Path(log)), Path(f"{log}.end")
    taken, told = 0, Counter[str]()
    while not end.exists():
        try:
            with SQLiteStore(path, clock=StillWall()) as store:
                provider = NonceProvider(store, KEY, unit="ns")
                while not end.exists():
                    writer.draw(provider, 20)
                    taken += 20
        except StoreError as error:
            told[type(error).__name__] += 1
    return taken, told


def back_up(path: str, copy: str, way: str) -> None:
    """Copy a database that is in use: by SQLite, as the documentation says, or plainly, with or without its log."""
    if way == "sqlite":
        with (
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return
    shutil.copy(path, copy)
    if way == "with log":
        with suppress(FileNotFoundError):  # it was closed just now
            shutil.copy(f"{path}-wal", f"{copy}-wal")
