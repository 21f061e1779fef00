"""Stores and fork: quiet while the process is copied, given up in the child, used afresh there.

From the moment a thread begins to fork no other one enters SQLite, and the fork waits for those inside: a mutex of
SQLite's own that is copied while held is never free again in the child. Nothing is held meanwhile. So nothing stays
held when an interrupt ends a hook, which CPython then passes over in silence; and what begins and ends a fork are C
functions, in which it runs no signal handler.

In the child nothing of SQLite is called and no lock is taken: a thread of the application may have been inside SQLite
when it was copied.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

from persistent_nonce.errors import StoreTimeoutError

__all__ = [
    "opening",
    "others_fork",
    "register",
    "registered",
    "rest",
    "torn",
    "under_way",
    "undisturbed",
]

T = TypeVar("T")

#: Seconds a fork waits for the transactions and reads of this process to end; after them the child cannot use stores.
_FORK_PATIENCE: Final = 5.0

#: Seconds for which `undisturbed` waits for a fork, and between two looks whether it is over.
_PATIENCE: Final = 10.0
_RETRY: Final = 0.001

#: One entry for each fork of this process that is under way. Who enters SQLite looks at it under a mutex of its own,
#: through which each fork passes after it has made its entry.
under_way: Final[list[None]] = []

#: Taken while something is opened that no child may have a copy of unknown to its store.
opening = threading.RLock()


class _Here(threading.local):
    """How far a fork of this thread has come."""

    stage = ""  # begun, at rest


_here: Final = _Here()


class Forkable(Protocol):
    """What takes part in a fork."""

    def before_fork(self, until: float) -> bool:
        """Wait until no other thread is inside, at most to `until` of `time.monotonic`; return whether that is so."""

    def after_fork_in_child(self, *, at_rest: bool) -> None:
        """Give up what was inherited; where it was not `at_rest`, nothing of it can be used, nor closed."""


_stores: Final[set[weakref.ref[Forkable]]] = set()


def register(store: Forkable) -> None:
    """Have `store` take part in every fork of this process, as long as it exists; more than once is fine."""
    _stores.add(weakref.ref(store, _stores.discard))


def registered() -> list[Forkable]:
    """Return the stores; the set is copied at once, since other threads change it."""
    return [store for known in _stores.copy() if (store := known()) is not None]


# --- who is inside


def others_fork() -> bool:
    """Whether another thread of this process is forking; one's own is not waited for."""
    return bool(under_way) and not _here.stage


def undisturbed(mutex: threading.RLock, work: Callable[[], T]) -> T:
    """Do `work` under a mutex that forks pass through, and not while another thread forks."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with mutex:
            if not others_fork():
                return work()
        if time.monotonic() >= deadline:
            raise StoreTimeoutError(
                f"this process was being forked for {_PATIENCE:g} s; no nonce was issued",
                "look for a hook of os.register_at_fork that waits",
            )
        time.sleep(_RETRY)


def rest(mutex: threading.RLock, until: float) -> bool:
    """Wait until no other thread has `mutex`, at most to `until` of `time.monotonic`; return whether that is so."""
    left = max(0.0, until - time.monotonic())
    try:
        return mutex.acquire(timeout=left)
    finally:
        try:  # noqa: SIM105 - suppress() is a call, and a signal may follow one
            mutex.release()
        except RuntimeError:
            pass  # it was not got


# --- the hooks

_torn = False


def torn() -> bool:
    """Whether this process was copied with a thread inside SQLite, whose mutexes may be held in it for ever."""
    return _torn


def _come_to_rest() -> None:
    import ctypes  # noqa: F401, PLC0415 - for the child, which imports nothing

    until = time.monotonic() + _FORK_PATIENCE
    if rest(opening, until) and all(store.before_fork(until) for store in registered()):
        _here.stage = "at rest"


def _in_child() -> None:
    global opening, _torn  # noqa: PLW0603 - of the process
    at_rest = _here.stage == "at rest"
    _torn = _torn or not at_rest
    # The inherited one may be held by a thread that does not exist here.
    opening = threading.RLock()
    for store in registered():
        store.after_fork_in_child(at_rest=at_rest)


# Before a fork the last is called first, after it the first.
os.register_at_fork(before=_come_to_rest, after_in_child=_in_child)
os.register_at_fork(
    before=partial(setattr, _here, "stage", "begun"),
    after_in_parent=partial(setattr, _here, "stage", ""),
    after_in_child=partial(setattr, _here, "stage", ""),
)
os.register_at_fork(
    before=partial(under_way.append, None),
    after_in_parent=under_way.pop,
    after_in_child=under_way.clear,
)
