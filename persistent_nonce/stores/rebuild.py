"""Build a database anew that is damaged, lost, or went back: from what can be read of it, the marks, and the clock.

Only upwards (I10): a key goes on above its row, its ceiling, its mark and the clock. A key of which nothing tells the
last nonce is stored closed, until somebody raises its floor. The files are kept as they were found.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from persistent_nonce.clock import SECOND, SYSTEM_CLOCK, Clock, Now
from persistent_nonce.errors import StoreCorruptError, StoreError, StoreUnavailableError
from persistent_nonce.nonces import lift
from persistent_nonce.rules import wake
from persistent_nonce.state import CallRecord, KeyState
from persistent_nonce.stores import place, rows
from persistent_nonce.stores.failures import FOREIGN, explain, primary
from persistent_nonce.stores.lock import StoreLock
from persistent_nonce.stores.marks import Mark, Marks, path_of, read_marks, went_back
from persistent_nonce.stores.presence import Presence

__all__ = ["Rebuilt", "RebuiltKey", "is_sound", "rebuild"]

#: Seconds for which the store's lock is waited for.
_PATIENCE: Final = 10.0

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

_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")

_UNKNOWN: Final = "its row was damaged and it has no mark: find its last nonce at the exchange and raise-floor above it"


class RebuiltKey(NamedTuple):
    """A key as it was found, and as it goes on."""

    before: KeyState | None  # its row, if that can be trusted
    mark: Mark | None
    state: KeyState  # as it is stored now


class Rebuilt(NamedTuple):
    """What became of a database."""

    kept: Path | None  # the old one as it was found, if there was one
    keys: tuple[RebuiltKey, ...]
    calls: int  # how many call records were read


class _Found(NamedTuple):
    """What can be read of a database."""

    whole: bool
    states: Mapping[str, KeyState]
    damaged: frozenset[str]  # keys whose rows cannot be trusted
    calls: tuple[CallRecord, ...]


def rebuild(path: Path, *, shared: bool, clock: Clock = SYSTEM_CLOCK) -> Rebuilt | None:
    """Rebuild the database `path` under the store's lock; None, and nothing is changed, if nothing is wrong with it.

    A program that goes on with the old one gets StoreReplacedError and has to be started again.

    Raises:
        StoreUnavailableError: a program is in a call or waits for one, or nothing tells of any key.
        StoreCorruptError: the database is somebody else's.
        StoreVersionError: it was written by a newer version.
        StoreError: the place cannot be trusted, locked or written.
    """
    place.check_filesystem(path, implicit=False, trust=False)
    path = place.prepare(path, shared=shared, create=False)
    descriptor = place.open_beside(path, ".lock", shared=shared)
    lock = StoreLock(descriptor, f"the lock of {path}", _PATIENCE)
    try:
        return lock.hold(lambda: _rebuild(path, shared=shared, clock=clock))
    except StoreError:
        raise
    except FOREIGN as error:
        raise explain(error, path) from error
    finally:
        lock.close()


def _rebuild(path: Path, *, shared: bool, clock: Clock) -> Rebuilt | None:
    now = Now(clock.wall(), clock.mono(), clock.boot() or "")
    if Presence(path, shared=shared).sweep(lambda _: True):
        raise StoreUnavailableError(
            f"a program still makes calls with {path}; nothing was changed",
            "stop all programs of the store first; show tells their pids",
        )
    marks, damaged_marks = read_marks(path_of(path))
    copy, new = _kept(path, now), path.with_name(path.name + ".new")
    with _removed_on_failure(copy, new):
        _copy(path, copy)
        found = _read(copy, trusted=bool(marks))
        if found.whole and not damaged_marks and not _behind(found.states, marks, now):
            _remove(copy)
            return None
        keys = tuple(_keys(found, marks, now))
        if not keys:
            raise StoreUnavailableError(
                f"nothing in {path} or its marks tells of a key; nothing was changed",
                "move its files away, and raise-floor each key above its last nonce",
            )
        ended = [
            record
            for key in keys
            if key.before is not None
            for record in wake(key.before, now).records
        ]
        states = [key.state for key in keys]
        _build(new, states, [*found.calls, *ended], shared=shared)
    _put_in_place(new, path)
    if damaged_marks:
        os.truncate(path_of(path), 0)
    _mark(path, states, shared=shared)
    return Rebuilt(copy if copy.exists() else None, keys, len(found.calls))


def _behind(
    states: Mapping[str, KeyState], marks: Mapping[str, Mark], now: Now
) -> bool:
    return any(
        went_back(states.get(key, KeyState(key)), mark, now.boot)
        for key, mark in marks.items()
    )


def _keys(found: _Found, marks: Mapping[str, Mark], now: Now) -> Iterator[RebuiltKey]:
    for key in sorted({*found.states, *marks, *found.damaged}):
        before, mark = found.states.get(key), marks.get(key)
        state = KeyState(key) if before is None else wake(before, now).state
        if mark is not None:
            state = lift(state, now, mark.unit, mark.nonce)
        elif before is not None:
            state = lift(state, now, state.unit, state.nonce)
        else:
            state = state._replace(closed=True, diagnosis=_UNKNOWN)
        yield RebuiltKey(before, mark, state._replace(boot=now.boot))


# --- the old database


def _kept(path: Path, now: Now) -> Path:
    """Return the name under which the database is kept as it was found."""
    at = datetime.fromtimestamp(now.wall / SECOND, UTC)
    return path.with_name(f"{path.name}.damaged-{at:%Y%m%dT%H%M%S.%fZ}")


def _copy(path: Path, copy: Path) -> None:
    """Copy the database and its -wal, as they are, to names of their own."""
    for suffix in ("", "-wal"):
        if os.path.exists(f"{path}{suffix}"):
            shutil.copy2(f"{path}{suffix}", f"{copy}{suffix}")


@contextmanager
def _removed_on_failure(*paths: Path) -> Iterator[None]:
    """Remove what is half-done when it fails: on a full disk above all it would be in the way."""
    try:
        yield
    except (*FOREIGN, StoreError):
        for path in paths:
            _remove(path)
        raise


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _read(path: Path, *, trusted: bool) -> _Found:
    """Read what can be read, without changing it.

    Args:
        trusted: there are marks, so that a file with a strange header is ours nevertheless.
    """
    nothing = _Found(whole=False, states={}, damaged=frozenset(), calls=())
    if not path.exists():
        return nothing
    had_wal = os.path.exists(f"{path}-wal")
    try:
        connection = sqlite3.connect(
            f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None
        )
        with closing(connection):
            try:
                whole = rows.version(connection) == rows.SCHEMA
            except StoreCorruptError:
                if not trusted:
                    raise
                whole = False
            sound = whole and is_sound(lambda sql: connection.execute(sql).fetchall())
            return _salvage(connection, whole=sound)
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
        rows.migrate(new)
        return set(new.execute(_SCHEMA).fetchall())


def _salvage(connection: sqlite3.Connection, *, whole: bool) -> _Found:
    states: dict[str, KeyState] = {}
    damaged: set[str] = set()
    for row in _scan(connection, rows.select_rows):
        try:
            state = rows.decode(row)
            states[state.key] = state
        except StoreCorruptError:
            damaged.add(str(row[0]))
    calls = tuple(map(rows.decode_call, _scan(connection, rows.select_records)))
    whole = whole and not damaged
    named = frozenset(filter(_FINGERPRINT.fullmatch, damaged - states.keys()))
    return _Found(whole, states, named, calls)


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


# --- the new one


def _build(
    new: Path,
    states: Iterable[KeyState],
    calls: Iterable[CallRecord],
    *,
    shared: bool,
) -> None:
    """Write a new database, all of it on the disk."""
    _remove(new)  # of one that was killed
    place.create_database(new, shared=shared)
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {rows.PAGE}")
        connection.execute("PRAGMA synchronous = FULL")
        rows.migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        for state in states:
            rows.write_row(connection.execute, (), state)
        for call in calls:
            _write_call(connection, call)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _put_in_place(new: Path, path: Path) -> None:
    """Put a new database in the place of the old one."""
    # Were the old -wal left, SQLite would replay it into the new database.
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    os.replace(new, path)
    place.sync(path.parent)


def _write_call(connection: sqlite3.Connection, call: CallRecord) -> None:
    with suppress(sqlite3.IntegrityError):  # damaged: no column can be trusted
        rows.write_calls(connection.execute, [call])


def _mark(path: Path, states: Iterable[KeyState], *, shared: bool) -> None:
    marks = Marks(path, shared=shared)
    marks.open()
    try:
        for state in states:
            marks.write(state, 1)
    finally:
        marks.close()
