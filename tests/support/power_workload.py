"""Work on a recorded disk that makes every kind of promise, and the recovery from each way its power may be cut."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from unittest.mock import patch

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import NonceError, NonceRangeError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState
from persistent_nonce.stores import connections, sessions
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock
from tests.support.power_images import Trace, image
from tests.support.power_vfs import integrity, recorded

__all__ = ["Cuts", "begin", "take_over", "work"]

_KEYS: Final = ("steady", "jumping")
_HOUR: Final = 3_600 * SECOND


def work(directory: Path, *, boot: str | None = "first boot") -> Trace:
    """Work in `directory`, which is empty, in a boot that may have no name, and return what happened there."""
    with recorded(directory) as trace:
        clock = StillClock(name=boot)
        _first_day(trace, clock)
        _second_day(trace, clock)
    return trace


def _open(trace: Trace, clock: StillClock) -> SQLiteStore:
    return SQLiteStore(trace.directory / trace.database, clock=clock)


def _start_in(fields: list[str], *, life: int) -> int:
    """Stand for `sessions._start`: as if the process had begun at another time in each life."""
    return int(fields[19]) + life if fields else 0


def _issue(trace: Trace, store: SQLiteStore, count: int, *keys: str) -> None:
    for key in keys or _KEYS:
        provider = NonceProvider(store, key)
        for _ in range(count):
            trace.promise(key, provider.next())


def _first_day(trace: Trace, clock: StillClock) -> None:
    """Issue by a clock that goes on, jump, and go on by a clock that was set back an hour."""
    with _open(trace, clock) as store:
        for _ in range(3):
            _issue(trace, store, 2)
            clock.advance(3)  # some of these pass the ceiling

        def jump(state: KeyState, now: Now) -> Changed:
            return Changed(nonces.jump(state, now, 60 * SECOND))

        jumping = NonceProvider(store, "jumping")
        trace.promise("jumping", store.update(jumping.key, jump).nonce)
        _issue(trace, store, 2)
        clock.now -= _HOUR
        _issue(trace, store, 3)


def _second_day(trace: Trace, clock: StillClock) -> None:
    """Open the database again, raise a floor, change a unit, and issue until SQLite writes its log back."""
    with _open(trace, clock) as store:
        _issue(trace, store, 1)
        clock.now += _HOUR
        _issue(trace, store, 1)
        steady = NonceProvider(store, "steady")
        floor = steady.last + 7_200_000
        steady.raise_floor(floor)
        trace.promise("steady", floor)
        _issue(trace, store, 1)

        def finer(state: KeyState, now: Now) -> Changed:
            return Changed(nonces.set_unit(state, now, "us"))

        mark = store.update(steady.key, finer, durable=True).nonce
        trace.promise("steady", mark)
        for _ in range(8):
            _issue(trace, store, 1)
            clock.advance(1)


def begin(directory: Path) -> None:
    """Make a database in `directory`, which is empty, with one nonce of a key."""
    with recorded(directory) as trace, _open(trace, StillClock()) as store:
        _issue(trace, store, 1, "steady")


def take_over(directory: Path, kill: int) -> tuple[Trace, range]:
    """Let a program on the database that `begin` made die before its `kill`-th write, and another go on.

    Returns:
        what happened, and the places for a cut: from the death on until the other had two nonces.
    """
    with recorded(directory) as trace:
        clock = StillClock()
        trace.fatal = trace.begin + kill
        with suppress(NonceError, sqlite3.Error), _open(trace, clock) as store:
            for _ in range(3):
                clock.advance(6)  # beyond the ceiling
                _issue(trace, store, 2, "steady")
        died, trace.fatal = len(trace.events), None
        connections._used.clear()  # the memory of who is dead
        connections._kept.clear()
        with _open(trace, clock) as store:
            _issue(trace, store, 2, "steady")
            places = range(died, len(trace.events) + 1)
    return trace, places


class Cuts:
    """Power cuts of a trace, each followed by a recovery by a clock that is an hour behind.

    Args:
        scratch: a directory for the disks.
        boots: whether the system tells one boot from another.

    Attributes:
        count: what was seen.
        broken: descriptions of what was lost, corrupt, or could not be opened.
    """

    def __init__(self, scratch: Path, *, boots: bool = True) -> None:
        self.count: Counter[str] = Counter()
        self.broken: list[str] = []
        self._scratch = scratch
        self._boots = boots
        self._life = 0

    def cut(self, trace: Trace, place: int, seed: int, *, again: bool = False) -> None:
        """Cut the power before the `place`-th event, and `again` during the recovery from that; then recover."""
        chance = random.Random(f"{place} {seed}")
        promised = trace.promises(place)
        content = image(trace, place, chance)
        self.count["runs"] += 1
        name = f"cut {place}, seed {seed}"
        if again:
            first = self._recover(content, promised, f"{name}, first recovery")
            if first is None:
                return
            second = chance.choice(first.cuts)
            content = image(first, second, chance)
            for key, mark in first.promises(second).items():
                promised[key] = max(mark, promised.get(key, 0))
            self.count["cut again"] += 1
            name += f", cut {second}"
        self._recover(content, promised, name)

    def _recover(
        self, content: dict[str, bytes], promised: dict[str, int], name: str
    ) -> Trace | None:
        """Put `content` on a new disk and go on there; return what happened, None if that was not what must be."""
        directory = self._scratch / f"{self.count.total()}-{len(name)}"
        directory.mkdir(mode=0o700)
        for path, data in content.items():
            (directory / path).parent.mkdir(mode=0o700, exist_ok=True)
            (directory / path).write_bytes(data)
            (directory / path).chmod(0o600)
        clock = StillClock(name=f"boot of {name}" if self._boots else None)
        clock.now -= _HOUR
        good = True
        # Files that are put in place of others speak for nobody, but the process of their sessions is this very one.
        self._life += 1_000
        start = partial(_start_in, life=self._life)
        with (
            patch.object(sessions, "_start", start),
            recorded(directory) as trace,
        ):
            try:
                with _open(trace, clock) as store:
                    for key in promised or _KEYS:
                        good = self._goes_on(trace, store, key, promised, name) and good
            except NonceError as error:
                self.count["unopened"] += 1
                self.broken.append(f"{name}: {error!r}")
                return None
            found = integrity(directory / trace.database)
        if found != "ok":
            self.count["corrupt"] += 1
            self.broken.append(f"{name}: {found}")
        return trace if good else None

    def _goes_on(
        self,
        trace: Trace,
        store: SQLiteStore,
        key: str,
        promised: dict[str, int],
        name: str,
    ) -> bool:
        """Take the next nonce, which is to exceed what was promised."""
        try:
            value = NonceProvider(store, key).next()
        except NonceRangeError as error:
            self.count["refused"] += 1
            self.broken.append(f"{name}: {error!r}")
            return False
        trace.promise(key, value)
        if value <= promised.get(key, 0):
            self.count["lost"] += 1
            self.broken.append(f"{name}: {value} after {promised[key]} of {key}")
            return False
        return True
