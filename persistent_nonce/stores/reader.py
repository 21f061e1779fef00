"""Reading a database without its lock, and without leaving a trace.

A WAL database that is open somewhere has a `-wal` beside it and is read through it. One that was closed has
none, and opening it the usual way would create `-wal` and `-shm`; it is read as immutable instead, and looked
at again afterwards.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from persistent_nonce.clock import SYSTEM_CLOCK, Clock, Now
from persistent_nonce.errors import (
    NonceError,
    StoreCorruptError,
    StoreUnavailableError,
)
from persistent_nonce.state import CallRecord, KeyState
from persistent_nonce.stores import forks
from persistent_nonce.stores.failures import FOREIGN, RETRIED, explain, primary
from persistent_nonce.stores.marks import refuse_loss
from persistent_nonce.stores.rows import (
    decode,
    decode_call,
    seal,
    select_calls,
    select_keys,
    select_row,
    select_seal,
)
from persistent_nonce.stores.schema import refuse_other, version

__all__ = ["Reader"]

#: Seconds for which a reader tries again while a database is being opened, closed or recovered by others.
_PATIENCE: Final = 5.0
_REMEMBERED: Final = 100  # keys
_RETRY: Final = 0.002


class Reader:
    """A reading connection of its own, safe to be shared by threads.

    Args:
        path: the database, which must exist.
        clock: what the commands that show ages and leads compare with.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.path = path
        self.clock = clock
        self.mutex = threading.RLock()  # a signal handler may read inside a read
        self._connection: sqlite3.Connection | None = None
        self._last: dict[str, tuple[tuple[int, ...], KeyState]] = {}
        self._wal, self._shm = f"{path}-wal", f"{path}-shm"

    def now(self) -> Now:
        """Return the time; the boot is empty where the system does not tell."""
        return Now(self.clock.wall(), self.clock.mono(), self.clock.boot() or "")

    def read(self, key: str) -> KeyState:
        """Return the state of `key`; a key never written to is new.

        Raises:
            StoreError: the database cannot be read or trusted.
        """
        last, state = self._last.get(key, ((), KeyState("")))
        if last and self.query(select_seal, (key,)) == [last]:
            return state  # nobody has written it since; a waiting call looks often
        rows = self.query(select_row, (key,))
        if not rows:
            return KeyState(key)
        try:
            state = decode(rows[0])
        except StoreCorruptError:
            # The check of another schema's row differs too.
            ((found,),) = self.query("PRAGMA user_version")
            refuse_other(found)
            raise
        if len(self._last) >= _REMEMBERED:
            self._last.clear()
        self._last[key] = (seal(rows[0]), state)
        return state

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""
        return [row[0] for row in self.query(select_keys)]

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records, newest first."""
        return [decode_call(row) for row in self.query(*select_calls(key, limit))]

    def query(self, sql: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        """Return all rows of a query over a consistent snapshot."""
        deadline = 0.0
        look = partial(self._query, sql, arguments)
        while True:
            try:
                rows = forks.undisturbed(self.mutex, look)
                if rows is not None:
                    return rows
            except sqlite3.Error as error:
                late = deadline and time.monotonic() >= deadline
                if primary(error) not in RETRIED or late:
                    raise explain(error, self.path) from error
            except FOREIGN as error:
                if isinstance(error, NonceError):
                    raise  # ours: a TimeoutError is an OSError
                raise explain(error, self.path) from error
            deadline = deadline or time.monotonic() + _PATIENCE
            if time.monotonic() >= deadline:
                raise self._unsettled()
            time.sleep(_RETRY)

    def _query(self, sql: str, arguments: tuple[Any, ...]) -> list[Any] | None:
        connection = self._connection  # a store that ends may take it away meanwhile
        if connection is not None:
            return connection.execute(sql, arguments).fetchall()
        if not self.path.is_file():  # a pipe would be waited for
            refuse_loss(self.path)
            raise StoreUnavailableError(
                f"there is no database {self.path}",
                "name it with --db or PERSISTENT_NONCE_DB, or start a bot first",
            )
        if self._log_size():
            if not os.path.exists(self._shm):
                return (
                    None  # a read would make it, for an owner who may be another user
                )
            connection = self._connection = self._open("mode=ro")
            return connection.execute(sql, arguments).fetchall()
        before = self._seen()
        connection = self._open("mode=ro&immutable=1")
        try:
            rows = connection.execute(sql, arguments).fetchall()
        finally:
            connection.close()
        return rows if self._seen() == before else None

    def _open(self, how: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?{how}",
            uri=True,
            timeout=0.2,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            if version(connection) == 0:
                refuse_loss(self.path)
                raise StoreUnavailableError(
                    f"{self.path} has not been set up", "start a bot first"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _unsettled(self) -> StoreUnavailableError:
        if os.path.exists(self._wal) and not os.path.exists(self._shm):
            return StoreUnavailableError(
                f"{self.path} has a -wal but no -shm: it was copied, its -shm deleted, "
                "or its last program killed as it closed",
                "start a program that uses it: opening it to write sets this right",
            )
        return StoreUnavailableError(
            f"{self.path} changes all the time under its reader",
            "run: persistent-nonce doctor",
        )

    def _seen(self) -> tuple[int, int, int]:
        status = os.stat(self.path)
        return status.st_size, status.st_mtime_ns, self._log_size()

    def _log_size(self) -> int:
        """Return the size of the `-wal`; one that is empty, as an opening on a full disk leaves it, counts as none."""
        try:
            return os.stat(self._wal).st_size
        except FileNotFoundError:
            return 0

    def rest(self, until: float) -> bool:
        """Wait until no other thread is inside, before a fork, at most to `until`; return whether that is so."""
        return forks.rest(self.mutex, until)

    def forget(self) -> sqlite3.Connection | None:
        """Give up the connection without closing it, in a forked child; return it to be closed later."""
        self.mutex = threading.RLock()
        connection, self._connection = self._connection, None
        return connection

    def close(self) -> None:
        """Close the connection."""
        with self.mutex:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
