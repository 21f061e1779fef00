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
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from persistent_nonce.arguments import seconds_argument
from persistent_nonce.clock import SYSTEM_CLOCK, Clock, Now
from persistent_nonce.errors import NonceError
from persistent_nonce.state import MAX_NONCE, CallRecord, Change, KeyState
from persistent_nonce.stores import forks, place
from persistent_nonce.stores.base import Leased, Renewal
from persistent_nonce.stores.boots import adopt
from persistent_nonce.stores.connections import Connections, let_go
from persistent_nonce.stores.failures import FOREIGN, closed, explain, inherited
from persistent_nonce.stores.identity import Files
from persistent_nonce.stores.lock import StoreLock
from persistent_nonce.stores.marks import refuse_loss
from persistent_nonce.stores.pending import Pending
from persistent_nonce.stores.presence import Presence
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.sessions import FileSession
from persistent_nonce.stores.writer import Writer

__all__ = ["SQLiteStore"]

T = TypeVar("T")
_LOG: Final = logging.getLogger("persistent_nonce")

#: Seconds between two looks whether the last call of a store that was closed has ended.
_LINGER: Final = 0.05


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
        self._state = "new"  # new, open, closing, forked, torn, closed
        self._timeout = seconds_argument("timeout", timeout, least=0.001)
        self._shared, self.clock = shared, clock
        place.check_filesystem(Path(path), implicit=False, trust=trust_filesystem)
        self.path = place.prepare(Path(path), shared=shared, create=False)
        self._reader = Reader(self.path, clock=clock)
        self._connections = Connections(self.path, self._reader, shared=shared)
        self._birth = threading.RLock()
        self._begin()
        _LOG.info("opened %s, SQLite %s", self.path, sqlite3.sqlite_version)

    def _begin(self) -> None:
        """Open everything anew; what was inherited over fork is closed under the lock."""
        self._pid = os.getpid()
        self._presence = Presence(self.path, shared=self._shared)
        self._pending = Pending()
        self._files = Files(self.path)
        forks.undisturbed(forks.opening, self._open_lock)
        try:
            self._hold(self._open)
            self._state = "open"
        except BaseException:
            self._connections.keep()
            self._lock.close()
            raise

    def _open_lock(self) -> None:
        """Open the lock file and take part in forks, in one: a child's copy would keep a dead parent's lock."""
        descriptor = place.open_beside(self.path, ".lock", shared=self._shared)
        self._lock = StoreLock(descriptor, f"the lock of {self.path}", self._timeout)
        forks.register(self)
        if self._pid != os.getpid():
            self._lock.close()  # a signal handler forked: the descriptor is the parent's
            raise inherited(self.path)

    def _open(self) -> None:
        self._files.check_lock(self._lock.descriptor)
        let_go(self.path)
        if not self.path.exists():
            refuse_loss(self.path)
        place.create_database(self.path, shared=self._shared)
        self._writer = self._connections.open(self._files, wake=self._presence.wake)
        try:
            self._told = (boot := self.clock.boot()) is not None
            if boot is None:
                boot = adopt(self._writer, self._presence, self.clock)
                self._begin_session()
        except BaseException:
            self._connections.close()
            raise
        self._boot = boot

    def _ready(self) -> None:
        """Make sure that this store is open in this very process."""
        if self._is_open():
            return
        with self._birth:
            if self._state == "forked":
                self._state = "new"
                try:
                    self._begin()
                except BaseException:
                    self._state = "forked"
                    raise
            if self._is_open():
                return
        raise (closed if self._state in ("closed", "new") else inherited)(self.path)

    def _is_open(self) -> bool:
        return self._state in ("open", "closing") and self._pid == os.getpid()

    def now(self) -> Now:
        """Return the time as a change is given it."""
        return Now(min(self.clock.wall(), MAX_NONCE), self.clock.mono(), self._boot)

    def _time(self) -> Now:
        """Return the time, under the lock; where the system does not tell its boot, of that which is stored."""
        boot = self._boot if self._told else self._writer.adopted_boot()
        if boot != self._boot:
            self._begin_session()  # nobody has seen the last one
            self._boot = boot
        return self.now()

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
        """Apply the pure function `change` to the state of `key` and return what was stored, `durable` on the disk.

        Raises:
            StoreError: the state could not be locked, read, trusted or written.
            ForkedCallError: this process was forked while the store was in use.
        """
        return self._change(Writer.transact, key, change, durable=durable)

    def lease(self, key: str, change: Renewal) -> Leased:
        """Do as `update`, and return the epoch of `key`, if `change` took a block."""
        return self._change(Writer.lease, key, change)

    def _change(self, do: Callable[..., T], key: str, change: Change, **how: bool) -> T:
        self._ready()
        work = partial(do, self._writer, key, change, self._time, **how)
        return self._hold(partial(self._then_drain, work))

    def _then_drain(self, work: Callable[[], T]) -> T:
        try:
            return work()
        finally:
            if self._pending:  # here: it would wait for the lock once more (I8)
                self._drain()

    def later(self, key: str, change: Change) -> None:
        """Apply `change` soon, for who may not wait: with the next update, of which a thread of its own makes sure."""
        self._pending.append((key, change))
        # At the interpreter's end no thread begins, and starting one would wait for it for ever: `close` did what was
        # pending before, and whose session has ended needs no more.
        if self._state != "closed" and not sys.is_finalizing():
            with suppress(RuntimeError):
                threading.Thread(target=self._try_drain, daemon=True).start()

    def _try_drain(self) -> None:
        try:
            self._ready()
            self._hold(self._drain)
        except NonceError as error:
            _LOG.warning("a call could not be ended yet: %s", error)

    def _drain(self) -> None:
        transact = partial(self._writer.transact, now=self._time, durable=False)
        self._pending.drain(transact)

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
        if self._state == "closing":
            raise closed(self.path)
        return self.known_session() or self._hold(self._begin_session)

    def known_session(self) -> FileSession | None:
        """Return this process's session if it is there, without a lock."""
        here = self._state == "open" and self._pid == os.getpid()
        return self._presence.current() if here else None

    def _begin_session(self) -> FileSession:
        return self._presence.begin(self._writer.names_session)

    def before_fork(self, until: float) -> bool:
        """Wait until no other thread of this process is inside a transaction, an opening, a closing or a read."""
        return self._lock.rest(until) and self._reader.rest(until)

    def after_fork_in_child(self, *, at_rest: bool) -> None:
        """Give up what was inherited, without a call to SQLite; the first use opens everything afresh.

        The connections are kept until then: SQLite's own tables, inherited too, claim locks that this process
        was never given, and only closing them puts that right.
        """
        rested = at_rest and not self._lock.inside
        self._birth = threading.RLock()
        self._lock.abandon()
        self._presence.abandon()
        self._pending.clear()
        self._connections.give_up(rested=rested)
        if self._state not in ("closed", "torn"):
            self._state = "forked" if rested else "torn"

    def close(self) -> None:
        """End this process's session and give back everything held; closing twice is fine.

        As long as calls of this process wait or run, their session must not be found dead (I5): calls that begin are
        refused from here on, and the rest is done once the last of those has ended, at the latest at the process's end.
        """
        with self._birth:  # a finalizer's thread and the exit's hook may meet
            if self._state == "forked":
                self._state = "closed"  # nothing was opened here
            if not self._is_open():
                return
            self._state = "closing"
            self._shut(final=False)
            if self._is_open():
                with suppress(RuntimeError):  # then it is closed with the next try
                    threading.Thread(target=self._linger, daemon=True).start()

    def _shut(self, *, final: bool) -> None:
        try:
            self._hold(partial(self._close, final))
        except BaseException:
            if self._state == "closing":
                self._state = "open"
            raise
        finally:
            if self._state == "closed":
                self._connections.keep()  # what an interrupt has left
                self._lock.close()

    def _close(self, final: bool) -> None:
        if not final and self._presence.in_flight():
            return
        try:
            self._drain()
            self._presence.end(self._writer.names_session)
        finally:
            self._state = "closed"
            self._connections.close()

    def _linger(self) -> None:
        """Close what was closed with calls in flight, once they have ended."""
        while self._state == "closing" and self._pid == os.getpid():
            if not self._presence.in_flight():
                self._quit(final=False)
            time.sleep(_LINGER)

    def _quit(self, *, final: bool = True) -> None:
        """Close when nobody can try again: at the end of the store's life, or of the process's."""
        with self._birth:
            if not self._is_open():
                return
            self._state = "closing"
            try:
                self._shut(final=final)
            except NonceError as error:
                _LOG.warning("could not close %s: %s", self.path, error)
                self._connections.keep()
                self._state = "closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A connection is closed under the lock only, and a finalizer may not wait for that.
        if hasattr(self, "_connections") and self._is_open():
            if sys.is_finalizing():
                self._quit()  # a thread would never begin
                return
            forks.register(self)  # the collector of garbage has forgotten it
            with suppress(RuntimeError):
                threading.Thread(target=self._quit, daemon=True).start()


@atexit.register
def _close_all() -> None:
    for store in forks.registered():
        if isinstance(store, SQLiteStore):
            store._quit()
