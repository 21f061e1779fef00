"""Stores and fork: quiet while the process is copied, given up in the child, used afresh there.

Before a fork the mutexes of every store are taken, so that the child inherits them at rest. In the child nothing of
SQLite is called and no lock is taken: a thread of the application may have been inside SQLite when it was copied.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Protocol

__all__ = ["keep_for_ever", "register"]


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


def keep_for_ever(inherited: object) -> None:
    """Let nothing end the life of `inherited`, not even the interpreter's end."""
    from ctypes import py_object, pythonapi  # noqa: PLC0415 - loaded before the fork

    pythonapi.Py_IncRef(py_object(inherited))


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
