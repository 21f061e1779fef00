"""Nonces in bursts: drawn from a block in memory, which is void as soon as anybody else changes the key's mark.

A nonce that is asked for now and then is one change of the store. Who asks for the next while its last one is still
the newest takes several at once, then more: the mark is moved to the end of the block, and the rest of it is drawn
without the store.

How each guarantee is kept here, numbered as in the README:

    I1, I2  a nonce counts as issued when the epoch of its key is read, after the draw. Every change of the mark changes
            the epoch before it returns. Of a block that was copied by a fork the child uses nothing: nothing is called
            between a last look at that and the return, so that no signal handler can fork in between
    I3      the mark lies at the end of the block: what a killed process has not used is skipped
    I4, I10 a block is a change like any other: below a ceiling that is on the disk, and within the bound
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import length_hint
from typing import Final

from persistent_nonce import nonces, settings
from persistent_nonce.clock import SECOND, SYSTEM_CLOCK, Clock, Now
from persistent_nonce.state import Change, Changed, KeyState, Wanted
from persistent_nonce.stores.base import LEASE, Epoch, Leasing, Store

__all__ = ["Drawer"]

#: The part of what is left below the bound that a block may take, at most: what it skips is nobody's (I10).
_SHARE: Final = 16

#: Seconds after which a thread asks the store itself, whatever the one that renews the block is waiting for.
_PATIENCE: Final = 1.0

#: madvise(2): in a child these pages are zeros, whoever has forked it. Python has no name for it.
_WIPE_ON_FORK: Final = 18


def _private() -> memoryview:
    """Return a word of memory that is 0 in a child of a fork of which Python knows nothing."""
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):  # an older kernel, or another system
        page.madvise(_WIPE_ON_FORK)
    return memoryview(page).cast("Q")


#: A number that tells this process from those it was forked from; 0 until it has one.
_here: Final = _private()


def _number() -> None:
    _here[0] = int.from_bytes(os.urandom(7), "little") + 1


# At once, while there is one thread: two that number their process at their first nonces would each lose one.
_number()
# A C function first, in which no signal handler runs: an interrupt that ends the next one must not leave the parent's
# number where the kernel does not wipe it.
os.register_at_fork(after_in_child=partial(_here.__setitem__, 0, 0))
os.register_at_fork(after_in_child=_number)


def _process() -> int:
    """Return the number of this process; never 0, which a child has too until it has one."""
    while not (number := _here[0]):
        _number()
    return number


def _seconds(clock: Clock) -> Callable[[], float]:
    """Return how the monotonic time of `clock` is read, in seconds; the system's as fast as can be."""
    return time.monotonic if clock is SYSTEM_CLOCK else lambda: clock.mono() / SECOND


_NO_EPOCH: Final = Epoch((), 0, 0)


class _Block:
    """Nonces of a key that nobody else has; nothing in it changes but what is left of them.

    Attributes:
        rest: those not drawn yet.
        until: seconds, from when it is void.
        words, at, epoch: where the epoch of the key is read, and what it has to be.
        process: whose they are.
        last: the last of them, which is the key's mark.
        size: how many they were, with the first, which never was in `rest`.
    """

    __slots__ = ("at", "epoch", "last", "process", "rest", "size", "until", "words")

    def __init__(
        self,
        first: int,
        last: int,
        *,
        until: float = 0.0,
        epoch: Epoch | None = None,
        process: int = 0,
    ) -> None:
        self.rest = iter(range(first + 1, last + 1))
        self.until = until
        self.words, self.at, self.epoch = epoch or _NO_EPOCH
        self.process = process
        self.last = last
        self.size = last - first + 1

    @property
    def used(self) -> int:
        """How many of them were drawn."""
        return self.size - length_hint(self.rest)


_NONE: Final = _Block(-1, -1)


class _Taking:
    """The change that takes a nonce, and behind it the rest of a block if the last one was used up in time.

    Attributes:
        late: the last block was void before anybody wanted more; there is no reason for another.
        first: the nonce.
        block: whether there are others behind it.
        until: from when the block is void: counted from a time read under the lock, before the commit.
    """

    def __init__(
        self,
        wanted: Wanted,
        seen: _Block,
        *,
        clock: Callable[[], float],
        late: bool,
    ) -> None:
        self.late = late
        self.first = 0
        self.block = False
        self.until = 0.0
        self._wanted = wanted
        self._clock = clock
        self._last = seen.last
        self._used = seen.used
        self._size = seen.size

    def __call__(self, state: KeyState, now: Now) -> Changed:
        alone = state.nonce == self._last
        state = nonces.issue(settings.configure(state, self._wanted), now)
        self.first, self.until = state.nonce, self._clock() + LEASE / SECOND
        more = self._next_size(state.tick, alone=alone) - 1
        if more:
            more = min(more, max(0, (state.bound - state.nonce) // _SHARE))
            state = state._replace(nonce=state.nonce + more)
        self.block = more > 0
        return Changed(state)

    def _next_size(self, tick: int, *, alone: bool) -> int:
        """Return the size of the next block.

        What it may leave unused is no more than was used before it, or than the clock goes on while it lasts: so the
        mark stays near the clock, or near to what a burst has really used.
        """
        if self.late:
            return 1
        if not alone or self._used < self._size:
            # No more than could be used before another came; one was drawn only to see that.
            return max(1, self._used - 1)
        return min(max(2 * self._size, LEASE // tick), nonces.LARGEST_BLOCK)


class Drawer:
    """Who draws the nonces of one key, for the threads of a process.

    Args:
        store: where blocks are taken, if it can lease; else it is asked for each nonce.
        key: the fingerprint.
        wanted: what the caller asks of the key.
    """

    def __init__(self, store: Store, key: str, *, wanted: Wanted) -> None:
        self.key = key
        self._store = store
        self._leasing = store if isinstance(store, Leasing) else None
        self._wanted = wanted
        self._clock = _seconds(store.clock)
        self._block = _NONE
        self._process = _process()
        self._mutex = threading.RLock()

    def next(self) -> int:
        """Take the next nonce (I1, I2).

        Raises:
            NonceRangeError: it would lie too far ahead of the clock, or above the greatest that is possible.
            UnitMismatchError: the key counts in another unit.
            KeyClosedError: the key is closed.
            StoreError, ForkedCallError: the state cannot be used; no nonce was issued.
        """
        block = self._block
        nonce = next(block.rest, 0)
        try:
            # The marks are looked at only while the block is young: a file that others cut short must not be touched.
            if (
                nonce
                and self._clock() < block.until
                and block.words[block.at] == block.epoch
                and _here[0] == block.process
            ):
                return nonce
        except (ValueError, IndexError):  # closed, or inherited; or cut short
            pass
        return self._renew(block)

    def _reserve(self, change: Change, count: int) -> range:
        """Make a change that takes `count` nonces, and return them."""
        process = _process()
        last = self._store.update(self.key, change).nonce
        taken = range(last - count + 1, last + 1)
        # Nothing is called here: a signal handler that forks has its place before.
        return taken if process == _here[0] else self._reserve(change, count)

    @property
    def last(self) -> int:
        """The high-water mark: no nonce above it was taken. Consumes nothing and takes no lock.

        Every nonce to come is greater, but for those of a burst that goes on elsewhere at this moment: its mark lies
        at the end of what it has set apart.

        Raises:
            StoreError, ForkedCallError: the state cannot be read.
        """
        last = self._last_drawn()
        return self._store.read(self.key).nonce if last is None else last

    def _last_drawn(self) -> int | None:
        """Return the last nonce that anybody has taken; None if only the store can tell."""
        block = self._block
        drawn = block.last - length_hint(block.rest)
        try:
            young = block.process == _here[0] and self._clock() < block.until
            return drawn if young and block.words[block.at] == block.epoch else None
        except (ValueError, IndexError):  # closed; or there never was an epoch
            return None

    def _renew(self, seen: _Block) -> int:
        """Take a nonce from the store, or from the block that another thread has got meanwhile."""
        process = _process()
        if self._process != process:
            # A thread that is not here may hold the other one.
            self._mutex, self._process = threading.RLock(), process
        mutex = self._mutex
        try:
            mutex.acquire(timeout=_PATIENCE)
            nonce = self._take(seen, process) if self._block is seen else self.next()
        finally:
            try:  # noqa: SIM105 - suppress() is a call, and a signal may follow one
                mutex.release()
            except RuntimeError:
                pass  # it was not got
        # Nothing is called here: a signal handler that forks has its place before.
        return nonce if process == _here[0] else self.next()

    def _take(self, seen: _Block, process: int) -> int:
        # Of the process that asked: a copy of it, made meanwhile, may have got a number of its own.
        store, epoch = self._leasing, None
        late = store is None or self._clock() >= seen.until
        taking = _Taking(self._wanted, seen, clock=self._clock, late=late)
        if store is None or late:
            last = self._store.update(self.key, taking).nonce
        else:
            state, epoch = store.lease(self.key, taking)
            last = state.nonce
        first, until = taking.first, taking.until
        self._block = _Block(first, last, until=until, epoch=epoch, process=process)
        return first
