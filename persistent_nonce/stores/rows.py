"""How states and call records lie in SQLite: schema, migrations, encoding, and the check of each row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import compress
from operator import ne
from typing import Any, Final, TypeAlias, cast
from zlib import crc32

from persistent_nonce.errors import StoreCorruptError, StoreVersionError
from persistent_nonce.state import CallRecord, KeyState, Running, Turn, Waiting
from persistent_nonce.stores.failures import RECOVER

__all__ = [
    "KEPT_CALLS",
    "PAGE",
    "SCHEMA",
    "decode",
    "decode_call",
    "encode",
    "migrate",
    "seal",
    "select_calls",
    "select_keys",
    "select_records",
    "select_row",
    "select_rows",
    "select_seal",
    "version",
    "write_calls",
    "write_row",
]

#: `execute` of a cursor or a connection.
Execute: TypeAlias = Callable[[str, tuple[Any, ...]], object]

#: The version of the schema, in SQLite's `user_version` and mixed into the check of each row: a process of
#: another version finds out at its next transaction. A migration seals every row anew.
SCHEMA: Final = 1

#: SQLite's `application_id` of our databases ("PNon").
_APPLICATION: Final = 0x504E6F6E

#: Bytes of a page: a commit writes whole ones, and a row needs a third of this.
PAGE: Final = 1024

#: How many settled call records are kept for a key.
KEPT_CALLS: Final = 1000

_FIELDS: Final = KeyState._fields
_EXEMPT: Final = _FIELDS.index(
    "exempt"
)  # it and all behind it are stored in another form
_TEXT: Final = frozenset(
    ["label", "boot", "tier", "reason", "diagnosis", "turn", "queue", "running"]
)
_DATES: Final = frozenset({"set_at", "not_before"})  # a clock may stand before 1970
_OPTIONAL: Final = frozenset({"min_interval", "every", "attempts", "max_lead"})

#: The columns of a key's row: the state's fields, how often it was written, and its check.
_COLUMNS: Final = (*_FIELDS, "revision", "check")
_NAMES: Final = ", ".join(f'"{name}"' for name in _COLUMNS)

#: A nonce changes the columns between these two; what stands behind them is encoded once for many.
_NONCE: Final = _FIELDS.index("nonce")
_HEAD: Final = _FIELDS.index("offset")

# What the check covers: all columns before it.
_HEAD_TEXT: Final = "%s\x1f" * _HEAD
_REST_TEXT: Final = "%s\x1f" * (len(_FIELDS) - _HEAD)

# All names in the queries below are constants of ours.
select_row: Final = f'SELECT {_NAMES} FROM keys WHERE "key" = ?'  # noqa: S608 - our own names
select_seal: Final = 'SELECT "revision", "check" FROM keys WHERE "key" = ?'
select_rows: Final = f"SELECT {_NAMES} FROM keys"  # noqa: S608 - our own names
select_keys: Final = 'SELECT "key" FROM keys ORDER BY "key"'
_INSERT: Final = (
    f"INSERT INTO keys ({_NAMES}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - our own names
    'ON CONFLICT ("key") DO NOTHING'
)

_CALL_NAMES: Final = ", ".join(f'"{name}"' for name in CallRecord._fields)
_CALL: Final = f"SELECT {_CALL_NAMES} FROM calls"  # noqa: S608 (our own constants)
select_records: Final = _CALL
_NEWEST: Final = ' ORDER BY "at" DESC, "nonce" DESC LIMIT ?'

# A call that ended before keeps the number it was settled under.
_PUT_CALL: Final = (
    f"INSERT INTO calls ({_CALL_NAMES}) "  # noqa: S608 (our own constants)
    f"VALUES ({', '.join('?' * len(CallRecord._fields))}) "
    'ON CONFLICT ("id") DO UPDATE SET "took" = excluded."took", '
    '"outcome" = excluded."outcome", '
    '"serial" = max("serial", excluded."serial")'
)
_TRIM: Final = 'DELETE FROM calls WHERE "key" = ? AND "serial" BETWEEN 1 AND ?'

_CALL_COLUMNS: Final = """
    "id" TEXT PRIMARY KEY NOT NULL, "key" TEXT NOT NULL, "session" TEXT NOT NULL,
    "method" TEXT NOT NULL, "cost" INTEGER NOT NULL,
    "nonce" INTEGER NOT NULL CHECK ("nonce" > 0), "at" INTEGER NOT NULL,
    "waited" INTEGER NOT NULL, "took" INTEGER, "outcome" TEXT NOT NULL,
    "serial" INTEGER NOT NULL CHECK ("serial" >= 0)
"""


def encode(state: KeyState, revision: int) -> tuple[Any, ...]:
    """Return the row of `state`, written for the `revision`-th time; its check is last."""
    head = state[:_HEAD]
    rest, text = _encoded_rest(state[_HEAD:])
    check = _check(f"{_HEAD_TEXT % head}{text}{revision}")
    return (*head, *rest, revision, check)


#: What was encoded last, and what came of it.
_encoded: Final[list[tuple[tuple[Any, ...], tuple[Any, ...], str]]] = [((), (), "")]


def _encoded_rest(rest: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
    last, row, text = _encoded[0]
    if last != rest:
        row, text = _encode_rest(rest)
        _encoded[0] = (rest, row, text)
    return row, text


def _encode_rest(rest: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
    exempt, closed, turn, queue, running = rest[_EXEMPT - _HEAD :]
    row = (
        *rest[: _EXEMPT - _HEAD],
        int(exempt),
        int(closed),
        _dump(turn) if turn else "",
        _dump(queue) if queue else "",
        _dump(running) if running else "",
    )
    return row, _REST_TEXT % row


def decode(row: tuple[Any, ...]) -> KeyState:
    """Return the state in a row, or raise StoreCorruptError if a bit of it is not as it was written."""
    if row[-1] != _check(f"{_HEAD_TEXT}{_REST_TEXT}%s" % row[:-1]):
        raise StoreCorruptError(
            f"the stored state of key {row[0]!r:.40} is damaged; no nonce was issued",
            RECOVER,
        )
    exempt, closed, turn, queue, running = row[_EXEMPT:-2]
    values = (
        *row[:_EXEMPT],
        bool(exempt),
        bool(closed),
        Turn(*json.loads(turn)) if turn else None,
        tuple(Waiting(*call) for call in json.loads(queue)) if queue else (),
        Running(*json.loads(running)) if running else None,
    )
    return KeyState._make(values)


def seal(row: tuple[Any, ...]) -> tuple[int, int]:
    """Return what tells a row from every other one of its key: its revision and its check."""
    return row[-2:]


def _dump(value: tuple[Any, ...]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _check(text: str) -> int:
    """CRC-32 of a row: SQLite's own integrity check does not see bit rot in a stored number."""
    return crc32(text.encode("utf-8", "surrogatepass"), SCHEMA)


def write_row(
    execute: Callable[..., sqlite3.Cursor], old: tuple[Any, ...], state: KeyState
) -> tuple[Any, ...]:
    """Store `state` in place of the row `old` (empty: none yet) and return its row; empty if another stands there now.

    Only what differs is written: a third of the cost of all of it.
    """
    if not old:
        row = encode(state, 1)
        return row if execute(_INSERT, row).rowcount == 1 else ()
    row = encode(state, old[-2] + 1)
    if row[_HEAD:-2] == old[_HEAD:-2] and row[:_NONCE] == old[:_NONCE]:
        statement, values = _NEXT, row[_NONCE:_HEAD]
    else:
        changed = tuple(map(ne, old[:-2], row))
        statement, values = _update(changed), tuple(compress(row, changed))
    swapped = execute(statement, (*values, *row[-2:], row[0], *old[-2:]))
    return row if swapped.rowcount == 1 else ()


@lru_cache(maxsize=256)
def _update(changed: tuple[bool, ...]) -> str:
    names = (*compress(_COLUMNS, changed), "revision", "check")
    columns = ", ".join(f'"{name}" = ?' for name in names)
    return (
        f'UPDATE keys SET {columns} WHERE "key" = ? AND "revision" = ? AND "check" = ?'  # noqa: S608 - our own names
    )


_NEXT: Final = _update(tuple(_NONCE <= i < _HEAD for i in range(_HEAD)))


def decode_call(row: tuple[Any, ...]) -> CallRecord:
    """Return the call record in a row."""
    return CallRecord._make(row)


def write_calls(execute: Execute, records: Iterable[CallRecord]) -> None:
    """Store call records, and of each key's settled ones keep the newest 1000."""
    for record in records:
        execute(_PUT_CALL, record)
        if record.serial > KEPT_CALLS:
            execute(_TRIM, (record.key, record.serial - KEPT_CALLS))


def select_calls(key: str | None, limit: int) -> tuple[str, tuple[Any, ...]]:
    """Return the query for the newest call records, of one key or of all."""
    if key is None:
        return _CALL + _NEWEST, (limit,)
    return _CALL + ' WHERE "key" = ?' + _NEWEST, (key, limit)


def version(connection: sqlite3.Connection) -> int:
    """Return the schema's version, 0 for an empty database.

    Raises:
        StoreCorruptError: the database is somebody else's.
        StoreVersionError: it was written by a newer version of this library.
    """
    found = cast("int", _one(connection, "PRAGMA user_version"))
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

    keys = ", ".join(map(column, _COLUMNS[:-1]))
    return [
        f'CREATE TABLE keys ({keys}, "check" INTEGER NOT NULL) STRICT',
        f"CREATE TABLE calls ({_CALL_COLUMNS}) STRICT",
        'CREATE INDEX calls_of_key ON calls ("key", "serial")',
        "CREATE TABLE store (name TEXT PRIMARY KEY NOT NULL, value TEXT) STRICT",
        f"PRAGMA application_id = {_APPLICATION}",
        f"PRAGMA user_version = {SCHEMA}",
    ]
