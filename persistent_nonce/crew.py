"""Bots that trade with the same keys, one of which may be killed in mid-call and replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from persistent_nonce.bots import Bot, Job, Reply
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.testing import Arrival, DrippingReply, KrakenSimulator

__all__ = ["Crew"]

#: Real seconds between two looks at the bots.
_LOOK: Final = 0.02

#: Real seconds between two bytes of the reply to the bot that is killed: it will not have had the last one.
_DRIP: Final = 0.1

_ALL: Final = 1_000_000


class Crew:
    """Bots with one job; when the `with` block ends, so have they.

    Args:
        exchange: where they trade.
        job: what each of them is to do.
        count: how many they are.
        directory: where they write what they are answered.
        store: the one they use; None for plain krakenex.
    """

    def __init__(
        self,
        exchange: KrakenSimulator,
        job: Job,
        *,
        count: int,
        directory: Path,
        store: SQLiteStore | None = None,
    ) -> None:
        self._exchange = exchange
        self._store = store
        self._directory = directory
        self._job = job if store is None else replace(job, db=str(store.path))
        self._count = count
        self._bots: list[Bot] = []
        self._slowed = False
        self.killed: Bot | None = None

    def __enter__(self) -> Self:
        try:
            bots = [self._start(self._job) for _ in range(self._count)]
            for bot in bots:
                bot.await_ready()
            for bot in bots:
                bot.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for bot in self._bots:
            bot.end()

    def _start(self, job: Job) -> Bot:
        self._bots.append(Bot(job, self._directory / f"bot-{len(self._bots)}.log"))
        return self._bots[-1]

    def replies(self) -> list[Reply]:
        """Return what all bots were answered so far."""
        return [reply for bot in self._bots for reply in bot.replies()]

    def work(
        self,
        look: Callable[[int], None],
        *,
        patience: float,
        kill_after: int | None = None,
    ) -> bool:
        """Let them work, and return whether all came to their end.

        Args:
            look: called now and then with the number of replies.
            patience: real seconds after which they are given up.
            kill_after: the number of replies after which one is killed in mid-call, and replaced.
        """
        deadline = time.monotonic() + patience
        while any(bot.lives for bot in self._bots) and time.monotonic() < deadline:
            done = len(self.replies())
            look(done)
            if kill_after is not None and done >= kill_after and self.killed is None:
                self._kill()
            time.sleep(_LOOK)
        look(len(self.replies()))
        ended = all(bot is self.killed or bot.process.poll() == 0 for bot in self._bots)
        return ended and (kill_after is None or self.killed is not None)

    def _kill(self) -> None:
        """Kill the bot whose order is being answered slowly, once there is one."""
        key, _ = self._job.keys[0]
        if not self._slowed:
            slow = DrippingReply(interval=_DRIP)
            self._exchange.inject(slow, method="AddOrder", key=key)
            self._slowed = True
        slowed = {a.nonce for a in self._exchange.stats(key).arrivals if a.fault}
        running = self._store and self._store.read(fingerprint(key)).running
        if not running or running.nonce not in slowed:
            return
        pid = pid_of(running.session)
        self.killed = next(bot for bot in self._bots if bot.process.pid == pid)
        self.killed.end()
        heir = self._start(self.killed.rest())
        heir.begin()

    def arrivals(self, place: int) -> list[Arrival]:
        """Return what arrived with the key at `place` in the job, without the last call of a killed bot.

        That call may be refused, or overlap with the next: nobody waits for its end. The store's record names it.
        """
        key, _ = self._job.keys[place]
        spared = set()
        if self._store is not None and self.killed is not None:
            spared = {
                call.nonce
                for call in self._store.calls(fingerprint(key), limit=_ALL)
                if call.outcome == "interrupted"
                and pid_of(call.session) == self.killed.process.pid
            }
        arrivals = self._exchange.stats(key).arrivals
        return [arrival for arrival in arrivals if arrival.nonce not in spared]
