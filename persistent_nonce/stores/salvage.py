"""Read of a damaged database what can be read, without changing it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from persistent_nonce.errors import StoreCorruptError
from persistent_nonce.state import CallRecord, KeyState
from persistent_nonce.stores import rows, schema
from persistent_nonce.stores.failures import primary
from persistent_nonce.stores.rows import is_fingerprint

__all__ = ["Found", "is_sound", "salvage"]

#: The schema, but for what sqlite-utils made for itself, which may change with its version.
_SCHEMA: Final = (
    "SELECT type, name, sql FROM sqlite_schema "
    "WHERE tbl_name IN ('keys', 'calls', 'store')"
)

#: Result codes of SQLite that do not speak of damage; to read a log takes room for an index.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_IOERR_WRITE,
    }
)


class Found(NamedTuple):
    """What can be read of a database; of a key with several rows the newest that can be trusted."""

    whole: bool
    states: Mapping[str, KeyState]
    damaged: frozenset[
        str
    ]  # keys of which a row, perhaps the newest, cannot be trusted
    calls: tuple[CallRecord, ...]


def salvage(path: Path, *, trusted: bool) -> Found:
    """Read what can be read, without changing it.

    Args:
        trusted: there are marks, so that a file with a strange header is ours nevertheless.
    """
    nothing = Found(whole=False, states={}, damaged=frozenset(), calls=())
    if not path.exists():
        return nothing
    had_wal = os.path.exists(f"{path}-wal")
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None
        )
        with closing(connection):
            try:
                whole = schema.version(connection) == schema.SCHEMA
            except StoreCorruptError:
                if not trusted:
                    raise
                whole = False
            sound = whole and is_sound(lambda sql: connection.execute(sql).fetchall())
            return _rows(connection, whole=sound)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        _must_be_damage(error)
        return nothing
    finally:
        Path(f"{path}-shm").unlink(missing_ok=True)
        if not had_wal:
            Path(f"{path}-wal").unlink(missing_ok=True)


def is_sound(ask: Callable[[str], list[Any]]) -> bool:
    """Whether a database is in order, and its schema as it was made.

    What can be read need not be fit to be written: SQLite resolves the constraints of a table only for who may write.

    Args:
        ask: carries out a query and returns its rows.
    """
    try:
        checked = ask("PRAGMA integrity_check") == [("ok",)]
        return checked and set(ask(_SCHEMA)) == _made()
    except (sqlite3.DatabaseError, UnicodeDecodeError, StoreCorruptError) as error:
        _must_be_damage(error)
        return False  # and yet much of it may be readable


@cache
def _made() -> set[Any]:
    """Return what the schema of a new database is."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as new:
        schema.migrate(new)
        return set(new.execute(_SCHEMA).fetchall())


def _rows(connection: sqlite3.Connection, *, whole: bool) -> Found:
    newest: dict[str, tuple[tuple[int, int], KeyState]] = {}
    damaged: set[str] = set()
    for row in _scan(connection, rows.select_rows):
        try:
            state = rows.decode(row)
        except StoreCorruptError:
            damaged.add(str(row[0]))
            continue
        if not is_fingerprint(state.key):
            continue  # nothing can be issued of it
        revision, _ = rows.seal(row)
        age = (state.nonce * state.tick, revision)
        # A page that was written to the wrong place may hold the key's row of long ago.
        if state.key not in newest or age > newest[state.key][0]:
            newest[state.key] = age, state
    states = {key: state for key, (_, state) in newest.items()}
    calls = tuple(map(rows.decode_call, _scan(connection, rows.select_records)))
    whole = whole and not damaged
    named = frozenset(filter(is_fingerprint, damaged))
    return Found(whole, states, named, calls)


def _scan(connection: sqlite3.Connection, query: str) -> list[Any]:
    """Return the rows that can be read, from both ends: a damaged page ends a walk over the table."""
    found: dict[Any, None] = {}
    for order in ("ASC", "DESC"):
        try:
            for row in connection.execute(f"{query} ORDER BY rowid {order}"):
                found[row] = None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _must_be_damage(error)
    return list(found)


def _must_be_damage(error: Exception) -> None:
    """Raise `error` again if it tells of the machine, not of the file: what cannot be read just now is not lost."""
    if {getattr(error, "sqlite_errorcode", 0), primary(error)} & _PASSING:
        raise error
