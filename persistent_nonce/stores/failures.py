"""What foreign errors mean here: each becomes one of ours, with a hint (I9)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from persistent_nonce.errors import (
    ForkedCallError,
    StoreCorruptError,
    StoreError,
    StorePermissionError,
    StoreReplacedError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from persistent_nonce.stores import permissions

__all__ = [
    "FOREIGN",
    "RECOVER",
    "RETRIED",
    "closed",
    "explain",
    "inherited",
    "primary",
    "split",
]

_NONE: Final = "no nonce was issued"

#: What can be done about damage.
RECOVER: Final = "stop all programs of the store, then run: persistent-nonce recover"

#: Primary result codes (sqlite.org/rescode.html) and what they come to.
_MEANING: Final[dict[int, tuple[type[StoreError], str, str]]] = {
    sqlite3.SQLITE_FULL: (
        StoreUnavailableError,
        "the disk is full",
        "free some space; the library goes on by itself",
    ),
    sqlite3.SQLITE_READONLY: (
        StoreUnavailableError,
        "the database is read-only",
        "it needs a writable file, directory and mount",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailableError,
        "the database cannot be opened",
        "look at its directory's owner and mode, and for free file descriptors",
    ),
    sqlite3.SQLITE_IOERR: (
        StoreUnavailableError,
        "the disk reports an input/output error",
        "look at the system's log, and at the user's quota",
    ),
    sqlite3.SQLITE_PERM: (
        StorePermissionError,
        "the database may not be used",
        "look at its owner and mode",
    ),
    sqlite3.SQLITE_CORRUPT: (
        StoreCorruptError,
        "the database is damaged",
        RECOVER,
    ),
    sqlite3.SQLITE_NOTADB: (
        StoreCorruptError,
        "the file is not a database, or a damaged one",
        f"name another file, or {RECOVER}",
    ),
    sqlite3.SQLITE_BUSY: (
        StoreTimeoutError,
        "another program holds the database",
        "close the sqlite3 shell or backup that has it open",
    ),
}

#: What can come out of SQLite and the system: a number that SQLite cannot store and a text that is none among it.
FOREIGN: Final = (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError)

#: What passes by itself within a moment, for a reader.
RETRIED: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_SCHEMA}
)


def primary(error: Exception) -> int:
    """Return the primary result code of an error, 0 if SQLite was not asked at all."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def explain(error: Exception, path: Path) -> StoreError:
    """Return the error of our tree for one of `FOREIGN`."""
    if isinstance(error, OSError):
        named = error.filename  # which may be another than the database
        return permissions.explain(
            error, Path(named) if isinstance(named, str) else path
        )
    if isinstance(error, OverflowError):
        return StoreUnavailableError(
            f"a number does not fit into {path}; {_NONE}", "look at the system's clock"
        )
    code = primary(error)
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE:
        code = sqlite3.SQLITE_FULL  # no room for a new -shm
    if isinstance(error, UnicodeDecodeError) or "decode to UTF-8" in str(error):
        code = (
            sqlite3.SQLITE_CORRUPT
        )  # Python, of a text in the database or in SQLite's complaint about it
    kind, message, hint = _MEANING.get(
        code,
        (StoreUnavailableError, f"SQLite: {error}", "run: persistent-nonce doctor"),
    )
    return kind(f"{message}: {path}; {_NONE}", hint)


def closed(path: Path) -> StoreUnavailableError:
    """Return the error of a store that was closed."""
    return StoreUnavailableError(f"{path} is closed", "open a new store")


def inherited(path: Path) -> ForkedCallError:
    """Return the error for a child process that uses what its parent was using."""
    return ForkedCallError(
        f"{path} was in use while this process was forked from another",
        "restart this process; start it by spawn, or fork while the store rests",
    )


def split(path: Path) -> StoreReplacedError:
    """Return the error for a database whose files were deleted or replaced while this process had it open."""
    return StoreReplacedError(
        f"files of {path} were deleted or replaced while this process used it; {_NONE}",
        "restart this process; then run: persistent-nonce doctor",
    )
