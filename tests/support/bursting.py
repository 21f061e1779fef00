"""What processes do to one key at once, each noting what it got, until they are killed."""

from __future__ import annotations

import random
import time
from pathlib import Path
from time import monotonic_ns
from typing import Final

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from tests.support.checker import Log, Operation
from tests.support.workers import KEY, say

__all__ = ["FLOORS", "burst", "burst_on", "change_on"]

#: Under this name what floors were set is noted, beside the nonces.
FLOORS: Final = "floors"

#: Nonces of a burst, and seconds at most between two changes by others: bursts come into being in between.
_BURST: Final = 2_000
_PAUSE: Final = 0.01


def burst(path: str, log: str, count: int) -> None:
    """Take `count` nonces one after the other, logging each, once told to begin."""
    with SQLiteStore(path, timeout=60) as store:
        writer = Log(Path(log))
        provider = NonceProvider(store, KEY, unit="ns")
        say("ready")
        input()
        writer.draw(provider, count)


def burst_on(path: str, log: str) -> None:
    """Take nonces in bursts."""
    writer = Log(Path(log))
    with SQLiteStore(path, timeout=60) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        provider.next()
        say("ready")
        while True:
            writer.draw(provider, _BURST)
            time.sleep(_PAUSE)


def change_on(path: str, log: str) -> None:
    """Take what others take meanwhile: single nonces, reservations, calls; and set floors."""
    file = Path(log)
    writer, chance = Log(file), random.Random(file.name)
    (file.parent / FLOORS).mkdir(exist_ok=True)
    floors = Log(file.parent / FLOORS / file.name)
    with SQLiteStore(path, timeout=60) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        say("ready")
        gate = CallGate(store, KEY, min_interval=0.0, timeout=60)
        while True:
            call, what = monotonic_ns(), chance.randrange(4)
            if what == 0:
                values = [provider.next()]
            elif what == 1:
                values = [*provider.reserve(chance.randint(1, 50))]
            elif what == 2:
                with gate.call("Balance") as made:
                    values = [made.nonce]
                    _note(writer, call, values)
                values = []
            else:
                floor = provider.last + chance.randint(1, 1_000)
                provider.raise_floor(floor)
                floors.add(Operation(call, monotonic_ns(), floor))
                values = []
            _note(writer, call, values)
            time.sleep(chance.uniform(0, _PAUSE))


def _note(log: Log, call: int, values: list[int]) -> None:
    returned = monotonic_ns()
    for value in values:
        log.add(Operation(call, returned, value))
