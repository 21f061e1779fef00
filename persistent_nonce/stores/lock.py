"""The store's lock: a mutex between threads, and under it a kernel lock between processes.

It is held for one transaction, never across a sleep or a network call. While it waits for the kernel's lock it
lets go of the mutex between tries, so that a fork (which passes through the mutex) need not wait for another process.
"""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import Final, TypeVar

from filelock import lock_descriptor

from persistent_nonce.errors import (
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from persistent_nonce.stores import forks
from persistent_nonce.stores.forks import others_fork, under_way

__all__ = ["StoreLock"]

T = TypeVar("T")

#: Seconds between two tries, at random. Measured on 2 to 16 hammering processes: shares stay within a factor
#: of two, waits about 0.1 s; shorter ones give less to all of them, since who looks takes the time of who works; an
#: exponential back-off starves, and a blocking flock has no deadline.
_RETRY: Final = (100e-6, 500e-6)


class StoreLock:
    """An exclusive lock on an open file, over threads and processes.

    Args:
        descriptor: the open lock file, which this object owns from here on.
        name: what to call it in an error.
        timeout: seconds after which a wait ends.

    Attributes:
        forked: this is a child's copy, given up; a result that `hold` returns nevertheless is the parent's.
    """

    def __init__(self, descriptor: int, name: str, timeout: float) -> None:
        self.descriptor = descriptor
        self.name = name
        self.timeout = timeout
        self.forked = False
        self._mutex = threading.RLock()
        self._owner = 0

    def hold(self, work: Callable[[], T]) -> T:
        """Do `work` under the lock and return its result.

        Signal-safe: an interrupt at any moment leaves nothing locked. CPython looks for signals after a call, so
        each `finally` begins with the one C call that gives the lock back. The mutex is an RLock only because
        its release by a thread that never got it fails without harm; re-entry is refused.

        Raises:
            StoreTimeoutError: the lock was not free within the timeout.
            StoreUnavailableError: it was closed meanwhile.
            StoreError: this thread holds it already (a signal handler, or a finalizer inside a transaction).
        """
        if self._owner == get_ident():
            raise StoreError(
                f"{self.name} is in use by this very thread; no nonce was issued",
                "do not call the library from a signal handler or a __del__",
            )
        mutex, left = self._mutex, self.timeout
        deadline = time.monotonic() + left
        while True:
            try:
                if mutex.acquire(timeout=left):
                    descriptor = self.descriptor
                    if descriptor < 0:
                        raise StoreUnavailableError(
                            f"{self.name} was given back", "open a new store"
                        )
                    try:
                        self._owner = get_ident()
                        try:
                            # Under the mutex: a fork makes its entry first, and then passes through it.
                            if not (under_way and others_fork()) and lock_descriptor(
                                descriptor, blocking=False
                            ):
                                return work()
                        finally:
                            fcntl.flock(descriptor, fcntl.LOCK_UN)
                    finally:
                        self._owner = 0
            finally:
                try:  # noqa: SIM105 - suppress() is a call, and a signal may follow one
                    mutex.release()
                except RuntimeError:
                    pass  # it was not got
            left = deadline - time.monotonic()
            if left <= 0:
                raise StoreTimeoutError(
                    f"{self.name} was not free for {self.timeout:g} s; "
                    "no nonce was issued",
                    "a stopped process may hold it: doctor tells which",
                )
            time.sleep(random.uniform(*_RETRY))  # noqa: S311 (jitter, not a secret)

    @property
    def inside(self) -> bool:
        """Whether this very thread holds the lock."""
        return self._owner == get_ident()

    def rest(self, until: float) -> bool:
        """Wait until no other thread is inside, at most to `until` of `time.monotonic`; return whether that is so."""
        return forks.rest(self._mutex, until)

    def abandon(self) -> None:
        """Give up what was inherited over fork: close without unlocking, which would unlock the parent's."""
        self.forked = True
        self._mutex = threading.RLock()
        self._owner = 0
        self.close()

    def close(self) -> None:
        """Close the descriptor; the lock file stays, since deleting it would admit two holders."""
        with self._mutex:  # no thread is between looking at the descriptor and its use
            descriptor, self.descriptor = self.descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)
