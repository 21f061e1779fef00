"""A connection that writes: opened, and set up as the guarantees need it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from persistent_nonce.errors import StoreUnavailableError, StoreUnsupportedError
from persistent_nonce.stores.schema import PAGE

__all__ = ["configure", "connect"]

#: STRICT tables came with it.
_OLDEST_SQLITE: Final = (3, 37, 0)

#: Seconds for which SQLite waits for a program that writes without our lock: short, since a signal cannot end it.
_BUSY: Final = 0.2

#: Pages after which the `-wal` is written back, which waits for the disk: 3 MiB.
_CHECKPOINT: Final = 3072

#: Bytes to which the `-wal` is cut when it begins anew: a reader that was stopped in mid-look may have let it grow.
_LARGEST_WAL: Final = 4 << 20


def connect(path: Path) -> sqlite3.Connection:
    """Open the database `path` to write to it.

    Raises:
        StoreError: this SQLite is too old, or the file is read-only.
        sqlite3.Error: it cannot be opened.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreUnsupportedError(
            f"SQLite {sqlite3.sqlite_version} is too old",
            "3.37 or newer is needed, 3.51.3 is recommended",
        )
    if not os.access(path, os.W_OK):
        # SQLite would make -wal and -shm as read-only as the database, and they would outlast the mistake.
        raise StoreUnavailableError(
            f"the database is read-only: {path}; no nonce was issued",
            "it needs a writable file, directory and mount",
        )
    return sqlite3.connect(
        path, timeout=_BUSY, isolation_level=None, check_same_thread=False
    )


def configure(execute: Callable[[str], sqlite3.Cursor]) -> None:
    """Have a connection use WAL, and never map the database, which another program may cut.

    Raises:
        StoreUnsupportedError: there is no WAL here.
    """
    execute(f"PRAGMA page_size = {PAGE}")  # of a new database
    mode = execute("PRAGMA journal_mode = WAL").fetchall()[0][0]
    if mode != "wal":
        raise StoreUnsupportedError(
            f"SQLite cannot use WAL here (it says {mode!r})",
            "put the database on a local file system",
        )
    execute("PRAGMA mmap_size = 0").fetchall()
    execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}").fetchall()
    execute(f"PRAGMA journal_size_limit = {_LARGEST_WAL}").fetchall()
    execute("PRAGMA trusted_schema = OFF").fetchall()
