"""A simulator of issuing: the algorithm as steps of three processes, against kills, power cuts and a clock that steps.

The arithmetic is the package's own (`issue`, `jump`, `ceiling`, `wake`); what is modelled is the order in which it is
read, stored, put on the disk and handed out. A history is played from a seed, so that each can be played again.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Final, Literal, TypeAlias

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.nonces import ceiling, issue, jump
from persistent_nonce.rules import wake
from persistent_nonce.state import KeyState
from tests.support.checker import Operation, violations

__all__ = ["MUTANTS", "Variant", "play"]

#: The algorithm as it is built, and what must not be done instead.
Variant: TypeAlias = Literal[
    "as built",
    "two fields",  # trust a ceiling whose fsync has not returned
    "ceiling last",  # hand the nonce out before the ceiling is on the disk
    "no fsync",
    "clock trusted",  # whatever the mark
    "no wake",  # go on in another boot as if nothing had been lost
    "wake below the ceiling",  # from the mark that was found
    "no lock",
    "read before the lock",
]

MUTANTS: Final[tuple[Variant, ...]] = (
    "two fields",
    "ceiling last",
    "no fsync",
    "clock trusted",
    "no wake",
    "wake below the ceiling",
    "no lock",
    "read before the lock",
)

_PROCESSES: Final = 3
_STEPS: Final = 100

#: Seconds; the ceiling lies 5 s, which are 5 ticks here, above a nonce, and a jump takes it far beyond.
_CLOCK_STEPS: Final = (-500, -60, -1, 1, 500)
_JUMP: Final = 60 * SECOND

Steps: TypeAlias = Generator[None]


class _World:
    """What the processes share: the state as all see it, the state on the disk, the lock, the clock."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.state = self.disk = KeyState("0123456789abcdef", unit="s")
        self.owner: int | None = None
        self.wall = 1_000
        self.boot = 1
        self.moment = 0
        self.history: list[Operation] = []

    def now(self) -> Now:
        return Now(self.wall * SECOND, self.moment, f"boot {self.boot}")

    def sync(self) -> None:
        if self.variant != "no fsync":
            self.disk = self.state

    def hand_out(self, call: int, nonce: int) -> None:
        self.moment += 1
        self.history.append(Operation(call, self.moment, nonce))
        self.moment += 1

    def cut(self) -> None:
        self.state = self.disk
        self.owner = None
        self.boot += 1


def _take(world: _World, process: int, *, jumps: bool) -> Steps:
    """Take a nonce, or jump; killed or cut between any two steps."""
    variant, call = world.variant, world.moment
    old = world.state
    yield
    while variant != "no lock" and world.owner is not None:
        yield
    world.owner = process
    yield
    if variant != "read before the lock":
        old = world.state
    now = world.now()
    woken = old if old.boot == now.boot else _woken(variant, old, now)
    yield
    try:
        state = jump(woken, now, _JUMP) if jumps else issue(woken, now)
    except NonceRangeError:  # a jump went to the bound: nothing is handed out
        world.owner = None
        return
    if variant == "clock trusted" and not jumps:
        state = state._replace(nonce=world.wall)
    handed = yield from _store(world, call, woken, state, jumps=jumps)
    if not (jumps or handed):
        world.hand_out(call, state.nonce)
    world.owner = None


def _woken(variant: Variant, old: KeyState, now: Now) -> KeyState:
    if variant == "no wake":
        return old._replace(boot=now.boot)
    woken = wake(old, now).state
    if variant == "wake below the ceiling":
        woken = woken._replace(nonce=old.nonce)
    return woken


def _store(
    world: _World, call: int, woken: KeyState, state: KeyState, *, jumps: bool
) -> Generator[None, None, bool]:
    """Store `state`, with a ceiling on the disk first if its nonce needs one; return whether it was handed out."""
    variant, top = world.variant, ceiling(state)
    trusted = woken.ceiling if variant == "two fields" else woken.synced
    if state.nonce <= trusted:
        world.state = state
        yield
        return False
    if variant == "ceiling last":
        world.state = state
        yield
        if not jumps:
            world.hand_out(call, state.nonce)
        yield
        world.state = state._replace(ceiling=top, synced=top)
        yield
        world.sync()
        return True
    if variant == "two fields":
        world.state = state._replace(ceiling=top)
        yield
        world.sync()
        yield
        return False
    world.state = woken._replace(
        seen=state.seen, offset=state.offset, ceiling=top, synced=0
    )
    yield
    world.sync()
    yield
    world.state = state._replace(ceiling=top, synced=top)
    yield
    return False


def play(variant: Variant, seed: int) -> list[str]:
    """Play one history of `variant` and return what it breaks of I1 and I2."""
    chance = random.Random(seed)
    world = _World(variant)
    running: list[Steps | None] = [None] * _PROCESSES
    process = 0
    for _ in range(_STEPS):
        world.moment += 1
        draw = chance.random()
        if draw < 0.82:
            if chance.random() < 0.4:  # a process that runs tends to go on
                process = chance.randrange(_PROCESSES)
            steps = running[process] or _take(
                world, process, jumps=chance.random() < 0.05
            )
            running[process] = steps
            if next(steps, steps) is steps:
                running[process] = None
        elif draw < 0.86:
            victim = chance.randrange(_PROCESSES)
            running[victim] = None
            if world.owner == victim:
                world.owner = None
        elif draw < 0.90:
            running = [None] * _PROCESSES
            world.cut()
        elif draw < 0.97:
            world.wall = max(1, world.wall + chance.choice(_CLOCK_STEPS))
        else:
            world.disk = world.state  # the system wrote back by itself
    return violations(world.history)
