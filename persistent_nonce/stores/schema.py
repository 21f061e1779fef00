"""The schema of the database, its version and its migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Final

from persistent_nonce.errors import StoreCorruptError, StoreVersionError
from persistent_nonce.state import KeyState

__all__ = [
    "COLUMNS",
    "PAGE",
    "SCHEMA",
    "check_version",
    "keep",
    "kept",
    "migrate",
    "refuse_other",
    "version",
]

#: The version of the schema, in SQLite's `user_version` and mixed into the check of each row: a process of
#: another version finds out at its next transaction. A migration seals every row anew.
SCHEMA: Final = 1

#: SQLite's `application_id` of our databases ("PNon").
_APPLICATION: Final = 0x504E6F6E

#: Bytes of a page: a commit writes whole ones, and a row needs a third of this.
PAGE: Final = 1024

_TEXT: Final = frozenset(
    [
        "label",
        "boot",
        "tier",
        "reason",
        "diagnosis",
        "healed",
        "turn",
        "queue",
        "running",
    ]
)
_DATES: Final = frozenset({"set_at", "not_before"})  # a clock may stand before 1970
_OPTIONAL: Final = frozenset(
    {"min_interval", "every", "attempts", "max_lead", "greatest"}
)

#: The columns of a key's row: the state's fields, how often it was written, and its check.
COLUMNS: Final = (*KeyState._fields, "revision", "check")

_CALL_COLUMNS: Final = """
    "id" TEXT PRIMARY KEY NOT NULL, "key" TEXT NOT NULL, "session" TEXT NOT NULL,
    "method" TEXT NOT NULL, "cost" INTEGER NOT NULL,
    "nonce" INTEGER NOT NULL CHECK ("nonce" > 0), "at" INTEGER NOT NULL,
    "waited" INTEGER NOT NULL, "took" INTEGER, "outcome" TEXT NOT NULL,
    "serial" INTEGER NOT NULL CHECK ("serial" >= 0),
    "since" INTEGER NOT NULL, "boot" TEXT NOT NULL,
    "reference" TEXT NOT NULL, "said" TEXT NOT NULL
"""


def version(connection: sqlite3.Connection) -> int:
    """Return the schema's version, 0 for an empty database.

    Raises:
        StoreCorruptError: the database is somebody else's.
        StoreVersionError: it was written by a newer version of this library.
    """
    found: int = _one(connection, "PRAGMA user_version")
    owner = _one(connection, "PRAGMA application_id")
    tables = _one(connection, "SELECT count(*) FROM sqlite_schema")
    if owner != _APPLICATION and (owner or found or tables):
        raise StoreCorruptError(
            "the file is a database, but not one of persistent_nonce",
            "name another file; this one was not changed",
        )
    if found > SCHEMA:
        raise StoreVersionError(
            f"the database has schema {found}, this version knows {SCHEMA}",
            "upgrade persistent_nonce in every program of this key",
        )
    return found


def check_version(connection: sqlite3.Connection) -> None:
    """Raise StoreVersionError if the schema is another than when the database was opened."""
    refuse_other(version(connection))


def refuse_other(found: int) -> None:
    """Raise StoreVersionError if `found` is not the version of the schema that this process works with."""
    if found != SCHEMA:
        raise StoreVersionError(
            f"the database has schema {found}, this process works with {SCHEMA}",
            "restart this program with the newer version",
        )


def kept(execute: Callable[..., sqlite3.Cursor], name: str) -> str | None:
    """Return what the store keeps under `name`."""
    query = "SELECT value FROM store WHERE name = ?"
    return next((value for (value,) in execute(query, (name,)).fetchall()), None)


def keep(execute: Callable[..., sqlite3.Cursor], name: str, value: str) -> None:
    """Keep `value` under `name`."""
    execute("INSERT OR REPLACE INTO store VALUES (?, ?)", (name, value))


def _one(connection: sqlite3.Connection, query: str) -> Any:
    return connection.execute(query).fetchall()[0][0]


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to this version; to be run under the store's lock (migrations race otherwise)."""
    # 135 ms: only for who has to migrate
    from sqlite_utils import Database  # noqa: PLC0415 - reason above
    from sqlite_utils.migrations import Migrations  # noqa: PLC0415 - reason above

    migrations = Migrations("persistent_nonce")

    @migrations()
    def first_schema(database: Database) -> None:
        for statement in _first_schema():
            database.conn.execute(statement)

    database = Database(connection, recursive_triggers=False, execute_plugins=False)
    # In one transaction with the table that sqlite-utils keeps of its own: a process killed between the two would
    # leave a database that looks like somebody else's (I3).
    with database.atomic():
        migrations.apply(database)


def _first_schema() -> list[str]:
    # Statements, since sqlite-utils has no CHECK constraints.
    def column(name: str) -> str:
        if name == "key":
            return '"key" TEXT PRIMARY KEY NOT NULL CHECK (length("key") = 16)'
        if name == "unit":
            return """"unit" TEXT CHECK ("unit" IN ('s', 'ms', 'us', '10ns', 'ns'))"""
        if name in _TEXT:
            return f'"{name}" TEXT NOT NULL'
        if name in _OPTIONAL:
            return f'"{name}" INTEGER CHECK ("{name}" >= 0)'
        if name in _DATES:
            return f'"{name}" INTEGER NOT NULL'
        return f'"{name}" INTEGER NOT NULL CHECK ("{name}" >= 0)'

    keys = ", ".join(map(column, COLUMNS[:-1]))
    return [
        f'CREATE TABLE keys ({keys}, "check" INTEGER NOT NULL) STRICT',
        f"CREATE TABLE calls ({_CALL_COLUMNS}) STRICT",
        'CREATE INDEX calls_of_key ON calls ("key", "serial")',
        "CREATE TABLE store (name TEXT PRIMARY KEY NOT NULL, value TEXT) STRICT",
        f"PRAGMA application_id = {_APPLICATION}",
        f"PRAGMA user_version = {SCHEMA}",
    ]
