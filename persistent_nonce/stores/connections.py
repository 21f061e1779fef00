"""The connections of a store to its database: closed under the lock, or kept where that would harm another process.

The last to close a WAL database unlinks `-wal` and `-shm` by name, whosever they are by then. A connection that may not
be closed outlives its store and the interpreter: the end of a process closes files without that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from persistent_nonce.errors import NonceError
from persistent_nonce.stores import forks
from persistent_nonce.stores.base import Wake
from persistent_nonce.stores.failures import inherited, split
from persistent_nonce.stores.identity import Files
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.writer import Writer

__all__ = ["Connections", "let_go"]


class Closable(Protocol):
    """A connection, or what holds one."""

    def close(self) -> None:
        """Close it."""


class _Kept(NamedTuple):
    """Connections that are open still, whatever became of their store.

    Attributes:
        may_be_closed: to be asked under the lock.
        in_the_way: the error if nothing can be opened beside them while they may not be closed.
        connections: those not closed yet.
    """

    may_be_closed: Callable[[], bool]
    in_the_way: Callable[[], NonceError | None]
    connections: list[Closable]


#: By the path of the database.
_kept: Final[dict[Path, list[_Kept]]] = {}

#: What the stores of this process that are open have recorded of their files, by the path of the database.
_used: Final[dict[Path, list[Files]]] = {}


def let_go(path: Path) -> None:
    """Close all that was kept of the database `path`, under its lock; raise the error of what has to stay.

    All of it, before a connection is opened anew: SQLite takes one connection's locks for those of the process, and
    those inherited were never given to it by the kernel; and it gives a new connection the `-shm` of an open one, so
    that nothing is opened either beside a store that has lost its files.
    """
    if forks.torn():
        raise inherited(path)
    for files in _used.get(path, []):
        if files.are_split():
            raise split(path)
    entries = _kept.get(path, [])
    for kept in entries[::-1]:
        if kept.may_be_closed():
            while kept.connections:
                kept.connections[-1].close()
                kept.connections.pop()
            entries.remove(kept)
        elif (error := kept.in_the_way()) is not None:
            raise error


class Connections:
    """The writing and the reading connection of a store.

    Args:
        path: the database.
        reader: the reading one, which opens by itself.
        shared: for the modes of what the writing one makes.
    """

    def __init__(self, path: Path, reader: Reader, *, shared: bool) -> None:
        self._path = path
        self._shared = shared
        self._reader = reader
        self._writer: Writer | None = None
        self._files = Files(path)

    def open(self, files: Files, *, wake: Wake) -> Writer:
        """Open the writing connection, under the lock."""
        pid = os.getpid()
        self._files = files
        self._writer = Writer(self._path, files, wake=wake, shared=self._shared)
        if pid != os.getpid():  # a signal handler forked
            self.give_up(rested=False)
            raise inherited(self._path)
        _used.setdefault(self._path, []).append(files)
        return self._writer

    def close(self) -> None:
        """Close both, under the lock, or keep the writing one; interrupted, keep what is still open."""
        try:
            self._reader.close()
            if self._writer is not None and self._files.may_be_closed():
                self._writer.close()
                self._writer = None
        finally:
            self.keep()

    def keep(self) -> None:
        """Have what is open outlive this store; the garbage collector would close it, without the lock."""
        files, path = self._files, self._path
        self._keep(
            files.may_be_closed, lambda: split(path) if files.are_split() else None
        )

    def give_up(self, *, rested: bool) -> None:
        """Keep what was inherited, in a forked child, without a call to SQLite; where a thread was inside, for ever."""
        if self._writer is not None:
            self._writer.forget()
        self._keep(
            self._files.may_be_closed if rested else bool,
            partial(inherited, self._path),
        )

    def _keep(
        self,
        may_be_closed: Callable[[], bool],
        in_the_way: Callable[[], NonceError | None],
    ) -> None:
        used = _used.get(self._path, [])
        if self._files in used:
            used.remove(self._files)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.void()
        reader = self._reader.forget()
        connections: list[Closable] = [c for c in (writer, reader) if c is not None]
        if not connections:
            return
        from ctypes import py_object, pythonapi  # noqa: PLC0415 - loaded before a fork

        for connection in connections:  # not even the end of the interpreter frees them
            pythonapi.Py_IncRef(py_object(connection))
        kept = _Kept(may_be_closed, in_the_way, connections)
        _kept.setdefault(self._path, []).append(kept)
