"""How states and call records lie in SQLite: encoding, statements, and the check of each row."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import compress
from operator import ne
from typing import Any, Final, TypeAlias
from zlib import crc32

from persistent_nonce.errors import (
    ConfigurationError,
    StoreCorruptError,
)
from persistent_nonce.state import CallRecord, KeyState, Running, Turn, Waiting
from persistent_nonce.stores import schema
from persistent_nonce.stores.failures import RECOVER
from persistent_nonce.stores.schema import COLUMNS

__all__ = [
    "KEPT_CALLS",
    "check_fingerprint",
    "decode",
    "decode_call",
    "encode",
    "is_fingerprint",
    "readable",
    "seal",
    "select_calls",
    "select_keys",
    "select_records",
    "select_row",
    "select_rows",
    "select_seal",
    "write_calls",
    "write_row",
]

#: `execute` of a cursor or a connection.
Execute: TypeAlias = Callable[[str, tuple[Any, ...]], object]

#: How many settled call records are kept for a key, and how many are removed at once: one by one each commit would
#: write half as many pages again.
KEPT_CALLS: Final = 1000
_AT_ONCE: Final = 32

_FIELDS: Final = KeyState._fields

#: This column, and all behind it, are stored in another form.
_EXEMPT: Final = _FIELDS.index("exempt")
_NAMES: Final = ", ".join(f'"{name}"' for name in COLUMNS)

#: A nonce changes the columns between these two; what stands behind them is encoded once for many.
_NONCE: Final = _FIELDS.index("nonce")
_HEAD: Final = _FIELDS.index("offset")

# What the check covers: all columns before it.
_HEAD_TEXT: Final = "%s\x1f" * _HEAD
_REST_TEXT: Final = "%s\x1f" * (len(_FIELDS) - _HEAD)

_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")

# All names in the queries below are constants of ours.
select_row: Final = f'SELECT {_NAMES} FROM keys WHERE "key" = ?'  # noqa: S608 - our own names
select_seal: Final = 'SELECT "revision", "check" FROM keys WHERE "key" = ?'
select_rows: Final = f"SELECT {_NAMES} FROM keys"  # noqa: S608 - our own names
select_keys: Final = 'SELECT "key" FROM keys ORDER BY "key"'
_INSERT: Final = (
    f"INSERT INTO keys ({_NAMES}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608 - our own names
    'ON CONFLICT ("key") DO NOTHING'
)

_CALL_NAMES: Final = ", ".join(f'"{name}"' for name in CallRecord._fields)
_CALL: Final = f"SELECT {_CALL_NAMES} FROM calls"  # noqa: S608 (our own constants)
select_records: Final = _CALL
_NEWEST: Final = ' ORDER BY "at" DESC, "nonce" DESC LIMIT ?'

# A call that ended before keeps the number it was settled under; what is known of it is not put in doubt again.
_PUT_CALL: Final = (
    f"INSERT INTO calls ({_CALL_NAMES}) "  # noqa: S608 (our own constants)
    f"VALUES ({', '.join('?' * len(CallRecord._fields))}) "
    'ON CONFLICT ("id") DO UPDATE SET "took" = excluded."took", '
    '"outcome" = excluded."outcome", "said" = excluded."said", '
    '"serial" = max("serial", excluded."serial") '
    "WHERE \"outcome\" IN ('in_flight', 'unknown', 'interrupted') "
    "OR excluded.\"outcome\" NOT IN ('unknown', 'interrupted')"
)
_TRIM: Final = 'DELETE FROM calls WHERE "key" = ? AND "serial" BETWEEN 1 AND ?'


def is_fingerprint(key: str) -> bool:
    """Whether a row, and a mark, can be of this key."""
    return isinstance(key, str) and _FINGERPRINT.fullmatch(key) is not None


def check_fingerprint(key: str) -> None:
    """Raise ConfigurationError if no row can be of this key."""
    if not is_fingerprint(key):
        raise ConfigurationError(
            f"{key!r:.40} is no fingerprint of a key",
            "16 hex digits in lower case, as fingerprint() returns them",
        )


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
        f"[{','.join(map(_dump_waiting, queue))}]" if queue else "",
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


def readable(rows: Iterable[tuple[Any, ...]]) -> Iterator[KeyState]:
    """Return the states in those of `rows` that are as they were written."""
    for row in rows:
        with suppress(StoreCorruptError):
            yield decode(row)


def seal(row: tuple[Any, ...]) -> tuple[int, int]:
    """Return what tells a row from every other one of its key: its revision and its check."""
    return row[-2:]


#: Kept: `json.dumps` makes an encoder of its own for each value.
_dump: Final = json.JSONEncoder(separators=(",", ":")).encode

#: Each transaction writes all of a queue, of which only one call or two are new.
_dump_waiting: Final = lru_cache(maxsize=4096)(_dump)


def _check(text: str) -> int:
    """CRC-32 of a row: SQLite's own integrity check does not see bit rot in a stored number."""
    return crc32(text.encode("utf-8", "surrogatepass"), schema.SCHEMA)


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
    names = (*compress(COLUMNS, changed), "revision", "check")
    columns = ", ".join(f'"{name}" = ?' for name in names)
    return (
        f'UPDATE keys SET {columns} WHERE "key" = ? AND "revision" = ? AND "check" = ?'  # noqa: S608 - our own names
    )


_NEXT: Final = _update(tuple(_NONCE <= i < _HEAD for i in range(_HEAD)))


def decode_call(row: tuple[Any, ...]) -> CallRecord:
    """Return the call record in a row."""
    return CallRecord._make(row)


def write_calls(execute: Execute, records: Iterable[CallRecord]) -> None:
    """Store call records, and of each key's settled ones keep the newest 1000, or a few more."""
    for record in records:
        execute(_PUT_CALL, record)
        if record.serial > KEPT_CALLS and not record.serial % _AT_ONCE:
            execute(_TRIM, (record.key, record.serial - KEPT_CALLS))


def select_calls(key: str | None, limit: int) -> tuple[str, tuple[Any, ...]]:
    """Return the query for the newest call records, of one key or of all."""
    if key is None:
        return _CALL + _NEWEST, (limit,)
    return _CALL + ' WHERE "key" = ?' + _NEWEST, (key, limit)
