"""Stores and fork: quiet while the process is copied, given up in the child, used afresh there.

Before a fork the mutexes of every store are taken, so that the child inherits them at rest. In the child nothing of
SQLite is called and no lock is taken: a thread of the application may have been inside SQLite when it was copied.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

__all__ = ["inherit", "let_go", "register"]


class Forkable(Protocol):
    """What takes part in a fork."""

    def before_fork(self) -> None:
        """Come to rest."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Give up what was inherited."""


_stores: weakref.WeakSet[Forkable] = weakref.WeakSet()
_resting: list[Forkable] = []
_turn = threading.RLock()  # two threads may fork at once


def register(store: Forkable) -> None:
    """Have `store` take part in every fork of this process, as long as it exists."""
    _stores.add(store)


class Closable(Protocol):
    """A connection, or what holds one."""

    def close(self) -> None:
        """Close it."""


#: What was inherited and is open still, by the path of its database, whatever became of its store: the connections,
#: and whether they may be closed, to be asked under the lock.
_inherited: dict[Path, list[tuple[Callable[[], bool], list[Closable]]]] = {}


def inherit(
    path: Path, may_be_closed: Callable[[], bool], connections: Iterable[Closable]
) -> None:
    """Keep `connections` until `let_go`: nothing else ends their life, not even the interpreter's end."""
    from ctypes import py_object, pythonapi  # noqa: PLC0415 - loaded before the fork

    kept = list(connections)
    for connection in kept:
        pythonapi.Py_IncRef(py_object(connection))
    _inherited.setdefault(path, []).append((may_be_closed, kept))


def let_go(path: Path) -> bool:
    """Close all that was inherited of the database `path`, under its lock; False if some of it has to stay.

    All of it, before a connection is opened anew: SQLite takes one connection's locks for those of the process, and
    those inherited were never given to it by the kernel.
    """
    entries = _inherited.get(path, [])
    while entries:
        may_be_closed, kept = entries[-1]
        if not may_be_closed():
            return False
        while kept:
            kept[-1].close()
            kept.pop()
        entries.pop()
    return True


def _before() -> None:
    import ctypes  # noqa: F401, PLC0415 - for the child, which imports nothing

    _turn.acquire()
    for store in list(_stores):
        _resting.append(store)
        store.before_fork()


def _in_parent() -> None:
    while _resting:
        _resting.pop().after_fork_in_parent()
    with contextlib.suppress(RuntimeError):  # an interrupt kept it from being got
        _turn.release()


def _in_child() -> None:
    global _turn  # noqa: PLW0603 - the inherited one may be held by a thread that does not exist here
    _turn = threading.RLock()
    _resting.clear()
    for store in list(_stores):
        store.after_fork_in_child()


os.register_at_fork(
    before=_before, after_in_parent=_in_parent, after_in_child=_in_child
)
