"""SQLite on a recorded disk: apsw in place of the standard library's `sqlite3`, its VFS noting every write and sync.

The library opens its databases by `sqlite3.connect`; `recorded` puts a connection of apsw there that looks the same to
it, so that its own code is what runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import apsw
from apsw.ext import query_info

from tests.support.power_images import Event, Trace

__all__ = ["integrity", "recorded"]

_NAME: Final = "recorded"


class _VFS(apsw.VFS):
    """The system's own VFS, with a trace of what goes through it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        super().__init__(_NAME, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        known = Path(path).name if path else ""
        if path and not Path(path).exists():
            self.trace.happen(Event("create", known))
        elif path and not any(event.name == known for event in self.trace.events):
            content = Path(path).read_bytes()
            self.trace.happen(Event("found", known, data=content))
        return _File(self.trace, known, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        durable = b"durable" if syncdir else b""
        self.trace.happen(Event("delete", Path(filename).name, data=durable))
        super().xDelete(filename, syncdir)

    def excepthook(self, *_: object) -> bool:
        """Let a program die quietly."""
        return True


class _File(apsw.VFSFile):
    """A file whose writes are noted before they are done."""

    def __init__(
        self,
        trace: Trace,
        known: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        self._note = trace.happen
        self._name = known
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._note(Event("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._note(Event("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._note(Event("sync", self._name))  # the disk itself is not asked

    def excepthook(self, *_: object) -> bool:
        """Let a program die quietly."""
        return True


class _Cursor:
    """As much of `sqlite3.Cursor` as the library and sqlite-utils use."""

    lastrowid = None

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self._sql = ""
        self.rowcount = -1

    def execute(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> _Cursor:
        before, self._sql = self._connection.total_changes(), sql
        try:
            self._rows = list(self._connection.execute(sql, values))
        except (apsw.Error, OSError) as error:
            raise _translated(error) from error
        self.rowcount = self._connection.total_changes() - before
        return self

    @property
    def description(self) -> Any:
        return query_info(self._connection, self._sql).description

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def close(self) -> None:
        self._rows = []


class _Connection:
    """As much of `sqlite3.Connection` as the library and sqlite-utils use."""

    isolation_level = None

    def __init__(
        self, path: str | Path, *, timeout: float = 5.0, uri: bool = False, **_: object
    ) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        if uri:
            flags |= apsw.SQLITE_OPEN_URI
        self._connection = apsw.Connection(str(path), flags=flags, vfs=_NAME)
        self._connection.set_busy_timeout(round(timeout * 1000))

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def cursor(self) -> _Cursor:
        return _Cursor(self._connection)

    def execute(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> _Cursor:
        return self.cursor().execute(sql, values)

    def rollback(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


def _translated(error: apsw.Error | OSError) -> sqlite3.Error:
    translated = sqlite3.OperationalError(str(error))
    code = getattr(error, "extendedresult", sqlite3.SQLITE_IOERR)
    translated.sqlite_errorcode = code
    return translated


@contextmanager
def recorded(directory: Path) -> Iterator[Trace]:
    """Record what is done in `directory` while `sqlite3.connect` is apsw's."""
    trace = Trace(directory)
    vfs = _VFS(trace)
    trace.start()
    try:
        with mock.patch.object(sqlite3, "connect", _Connection):
            yield trace
    finally:
        vfs.unregister()


def integrity(path: Path) -> str:
    """Return what SQLite finds in the database, "ok" if nothing is wrong; to be called while it is recorded."""
    connection = _Connection(path)
    try:
        return "; ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))
    finally:
        connection.close()
