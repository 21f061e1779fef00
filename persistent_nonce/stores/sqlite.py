"""The store for real use: a WAL-mode SQLite table behind a lock between processes.

How each guarantee is kept here, numbered as in the README:

    I1, I2  one transaction at a time over all processes, under the lock, from the newest state
    I3      the kernel frees the lock of a killed process; its transaction never happened
    I4      the writer: no nonce above `synced` leaves before a ceiling above it is on the disk
    I9      whatever goes wrong with lock, files, SQLite or a row's check becomes a StoreError
"""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from persistent_nonce.clock import SYSTEM_CLOCK, Clock, Now
from persistent_nonce.errors import NonceError, StoreUnavailableError
from persistent_nonce.state import (
    MAX_NONCE,
    CallRecord,
    Change,
    KeyState,
    seconds_argument,
)
from persistent_nonce.stores import forks, place
from persistent_nonce.stores.failures import FOREIGN, explain, inherited
from persistent_nonce.stores.identity import Files
from persistent_nonce.stores.lock import StoreLock
from persistent_nonce.stores.marks import refuse_loss
from persistent_nonce.stores.presence import Presence
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.sessions import FileSession
from persistent_nonce.stores.writer import Writer

__all__ = ["SQLiteStore"]

_LOG: Final = logging.getLogger("persistent_nonce")

#: Seconds a fork waits for this process's transaction to end; after them the child cannot use the store.
_FORK_PATIENCE: Final = 5.0

T = TypeVar("T")

_open: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()


class SQLiteStore:
    """A store in one database file, for all threads and processes of one host.

    Args:
        path: the database; it is created if missing, in a directory that exists.
        shared: let the group use it (directory 2770, files 0660), not the owner alone.
        timeout: seconds a transaction waits for the store's lock.
        clock: where the time is read; a test or a simulation gives its own.
        trust_filesystem: use a file system on which locks or WAL are not known to work; logged.

    Raises:
        ConfigurationError: an argument cannot be used.
        StoreError: the database cannot be opened, trusted or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shared: bool = False,
        timeout: float = 10.0,
        clock: Clock = SYSTEM_CLOCK,
        trust_filesystem: bool = False,
    ) -> None:
        self._state = "new"  # new, open, forked, torn, closed
        self._rests = False  # during a fork, with nobody inside
        self._timeout = seconds_argument("timeout", timeout, least=0.001)
        self._shared = shared
        self.clock = clock
        place.check_filesystem(Path(path), implicit=False, trust=trust_filesystem)
        self.path = place.prepare(Path(path), shared=shared, create=False)
        self._reader = Reader(self.path, clock=clock)
        self._birth = threading.RLock()
        self._begin()
        _open.add(self)
        _LOG.info("opened %s, SQLite %s", self.path, sqlite3.sqlite_version)

    # --- opening, in a process or again in a forked child

    def _begin(self) -> None:
        """Open everything anew; what was inherited over fork is closed under the lock."""
        self._pid = os.getpid()
        self._presence = Presence(self.path, shared=self._shared)
        self._pending: deque[tuple[str, Change]] = deque()
        self._files = Files(self.path)
        descriptor = place.open_beside(self.path, ".lock", shared=self._shared)
        self._lock = StoreLock(descriptor, f"the lock of {self.path}", self._timeout)
        forks.register(self)
        try:
            self._hold(self._open)
        except BaseException:
            self._lock.close()
            raise
        self._state = "open"

    def _open(self) -> None:
        self._files.check_lock(self._lock.descriptor)
        if not forks.let_go(self.path):
            raise inherited(self.path)
        if not self.path.exists():
            refuse_loss(self.path)
        place.create_database(self.path, shared=self._shared)
        self._writer = Writer(self.path, self._files, shared=self._shared)
        try:
            boot = self.clock.boot()
            if boot is None:
                alone = not self._presence.sweep(self._writer.names_session)
                boot = self._writer.adopt_boot(alone=alone)
                self._begin_session()
        except BaseException:
            self._writer.close()
            raise
        self._boot = boot

    def _ready(self) -> None:
        """Make sure that this store is open in this very process."""
        if self._state == "open" and self._pid == os.getpid():
            return
        with self._birth:
            if self._state == "forked":
                self._state = "new"
                try:
                    self._begin()
                except BaseException:
                    self._state = "forked"
                    raise
            if self._state == "open" and self._pid == os.getpid():
                return
        if self._state in ("closed", "new"):
            raise StoreUnavailableError(f"{self.path} is closed", "open a new store")
        raise inherited(self.path)

    # --- the store

    def now(self) -> Now:
        """Return the time as a change is given it."""
        clock = self.clock
        return Now(min(clock.wall(), MAX_NONCE), clock.mono(), self._boot)

    def read(self, key: str) -> KeyState:
        """Return the state of `key` without a lock; a key never written to is new."""
        self._ready()
        try:
            self._files.check()  # a reader would go on with a file that is no more
        except OSError as error:
            raise explain(error, self.path) from error
        return self._reader.read(key)

    def keys(self) -> list[str]:
        """Return the fingerprints of all keys, sorted."""
        self._ready()
        return self._reader.keys()

    def calls(self, key: str | None = None, limit: int = 100) -> list[CallRecord]:
        """Return call records, newest first."""
        self._ready()
        return self._reader.calls(key, limit)

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Apply the pure function `change` to the state of `key` and return what was stored.

        Args:
            durable: return only when the result is on the disk.

        Raises:
            StoreError: the state could not be locked, read, trusted or written.
        """
        if self._state != "open" or self._pid != os.getpid():
            self._ready()
        try:
            return self._hold(
                partial(self._writer.transact, key, change, self.now, durable=durable)
            )
        finally:
            if self._pending:
                self._try_drain()

    def later(self, key: str, change: Change) -> None:
        """Apply `change` soon, from a place that may not wait: a finalizer, or after `update` failed.

        Whoever next updates the store does it; a thread of its own sees to it that somebody does.
        """
        self._pending.append((key, change))
        # At the interpreter's end no thread begins, and starting one would wait for it for ever: `close` did what was
        # pending before, and whose session has ended needs no more.
        if self._state == "closed" or sys.is_finalizing():
            return
        with suppress(RuntimeError):
            threading.Thread(target=self._try_drain, daemon=True).start()

    def _try_drain(self) -> None:
        try:
            self._ready()
            self._hold(self._drain)
        except NonceError as error:
            _LOG.warning("a call could not be ended yet: %s", error)

    def _drain(self) -> None:
        for _ in range(len(self._pending)):
            key, change = self._pending[0]
            try:
                self._writer.transact(key, change, self.now, durable=False)
            except (NonceError, sqlite3.Error, OSError) as error:
                _LOG.warning("a call could not be ended yet: %s", error)
                self._pending.rotate(-1)  # one damaged key holds up no other
            else:
                self._pending.popleft()

    def _hold(self, work: Callable[[], T]) -> T:
        lock = self._lock
        try:
            return lock.hold(work)
        except NonceError:
            raise
        except FOREIGN as error:
            raise explain(error, self.path) from error
        finally:
            if lock.forked:  # a signal handler did: the result is the parent's
                raise inherited(self.path)

    def session(self) -> FileSession:
        """Return this process's session, begun at the first call, and anew if its file was removed."""
        self._ready()
        return self._presence.current() or self._hold(self._begin_session)

    def _begin_session(self) -> FileSession:
        return self._presence.begin(self._writer.names_session)

    # --- fork and end

    def before_fork(self) -> None:
        """Come to rest: no thread of this process is inside a transaction or a read."""
        if self._state != "open" or self._lock.inside:
            return
        try:
            if self._lock.acquire_mutex(_FORK_PATIENCE):
                self._rests = self._reader.mutex.acquire(timeout=_FORK_PATIENCE)
        finally:
            if not self._rests:  # also after an interrupt
                self._lock.release_mutex()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._rests:
            self._rests = False
            self._reader.mutex.release()
            self._lock.release_mutex()

    def after_fork_in_child(self) -> None:
        """Give up what was inherited, without a call to SQLite; the first use opens everything afresh.

        The connections are kept until then: SQLite's own tables, inherited too, claim locks that this process
        was never given, and only closing them puts that right.
        """
        former, rested, self._rests = self._state, self._rests, False
        self._birth = threading.RLock()
        if former in ("closed", "torn", "forked"):
            return  # nothing was open
        self._state = "forked" if rested else "torn"
        self._lock.abandon()
        if former == "open":
            self._writer.forget()
            reader = self._reader.forget()
            forks.inherit(
                self.path,
                # Where a thread was inside, nobody ever may.
                self._files.may_be_closed if rested else bool,
                [self._writer] if reader is None else [self._writer, reader],
            )
        self._pending.clear()
        self._presence.abandon()

    def close(self) -> None:
        """End this process's session and give back everything held; closing twice is fine."""
        with self._birth:  # a finalizer's thread and the exit's hook may meet
            if self._state == "forked":
                self._state = "closed"  # nothing was opened here
            if self._state != "open" or self._pid != os.getpid():
                return
            try:
                self._hold(self._close)
            finally:
                if self._state == "closed":
                    self._lock.close()

    def _close(self) -> None:
        self._state = "closed"
        try:
            self._drain()
            self._presence.end(self._writer.names_session)
        finally:
            self._presence.abandon()
            self._reader.close()
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A connection is closed under the lock only, and a finalizer may not wait for that.
        if getattr(self, "_state", "new") == "open" and self._pid == os.getpid():
            if sys.is_finalizing():
                self.close()  # a thread would never begin
                return
            with suppress(RuntimeError):
                threading.Thread(target=self.close, daemon=True).start()


@atexit.register
def _close_all() -> None:
    for store in list(_open):
        try:
            store.close()
        except NonceError as error:
            _LOG.warning("could not close %s: %s", store.path, error)
