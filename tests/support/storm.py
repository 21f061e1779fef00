"""A storm of KeyboardInterrupts on a store, in a process of its own (pytest's timeout needs SIGALRM for itself)."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns
from typing import NoReturn

from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.checker import Log, Operation
from tests.support.processes import descriptors
from tests.support.workers import KEY

__all__ = ["storm"]


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


class Storm:
    """Interrupts of an operation at random moments of its time.

    Attributes:
        struck: how many interrupts came.
        wrong: what they left behind.
    """

    def __init__(self, store: SQLiteStore, path: str) -> None:
        self.struck = 0
        self.wrong: list[str] = []
        self._store = store
        self._other = os.open(f"{path}.lock", os.O_RDWR)
        self._chance = random.Random(11)

    def strike(self, operation: Callable[[], object], times: int) -> None:
        """Do `operation` until `times` interrupts have struck, each within 1.3 times as long as it takes.

        How long that is changes with what the interrupt before has undone, so it is found out on the way: a quarter
        of the operations is to come to its end.
        """
        within = 100e-6
        for _ in range(20 * times):
            if self.struck >= times:
                return
            try:
                signal.setitimer(signal.ITIMER_REAL, self._chance.uniform(1e-6, within))
                operation()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                self.struck += 1
                within *= 1.01
                self._look()
            else:
                within *= 0.97

    def _look(self) -> None:
        store = self._store
        if store._lock.inside or store._lock._mutex._is_owned():  # type: ignore[attr-defined]  # not in its stub
            self.wrong.append("the mutex")
        if store._writer.connection.in_transaction:
            self.wrong.append("a transaction")
        try:
            fcntl.flock(self._other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not self.contended:
                self.wrong.append("the lock")
        else:
            fcntl.flock(self._other, fcntl.LOCK_UN)

    contended = False


def storm(path: str, log: str, times: int, contended: bool) -> list[object]:
    """Interrupt draws `times` times; return how many struck, what was left behind, and the descriptors leaked."""
    signal.signal(signal.SIGALRM, _interrupt)
    writer = Log(Path(log))
    with SQLiteStore(path, timeout=60) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        while not store._writer._marks._words:  # a block opens the marks once more
            provider.next()
        # One that makes the block void, one by itself, one with a block, and one from that.
        ways = itertools.cycle([lambda: provider.reserve(1)[0], *3 * [provider.next]])

        def draw() -> None:
            call = monotonic_ns()
            value = next(ways)()
            writer.add(Operation(call, monotonic_ns(), value))

        weather = Storm(store, path)
        weather.contended = contended
        before = descriptors()
        weather.strike(draw, times)
        leaked = descriptors() - before
        worked: list[int] = []
        thread = threading.Thread(target=lambda: worked.append(provider.next()))
        thread.start()  # the mutex is free for others too
        thread.join(60)
        if not worked:
            weather.wrong.append("the mutex, for another thread")
    return [weather.struck, weather.wrong, leaked]
