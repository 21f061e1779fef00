"""A simulator of issuing: the algorithm as steps of three processes, against kills, power cuts and a clock that steps.

The arithmetic is the package's own (`issue`, `jump`, `raise_floor`, `ceiling`, `wake`, the sizes of blocks); what is
modelled is the order in which it is read, stored, put on the disk, marked and handed out, and in which nonces of a
block are drawn. A history is played from a seed, so that each can be played again.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Final, Literal, TypeAlias

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.leases import _NONE, _Block, _Taking
from persistent_nonce.nonces import ceiling, jump, raise_floor
from persistent_nonce.rules import wake
from persistent_nonce.state import KeyState, Wanted
from persistent_nonce.stores.base import Epoch
from persistent_nonce.stores.slots import Mark, went_back
from tests.support.checker import Operation, violations

__all__ = ["LEASES", "MUTANTS", "Variant", "play"]

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
    # of the leases
    "epoch not checked",
    "epoch not written",
    "epoch written last",  # after the nonce was handed out
    "block above the synced ceiling",  # of which only the first lies below
    "next block inside the old one",
    "mark before the commit",
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
LEASES: Final[tuple[Variant, ...]] = (
    "epoch not checked",
    "epoch not written",
    "epoch written last",
    "block above the synced ceiling",
    "next block inside the old one",
    "mark before the commit",
)

_PROCESSES: Final = 3
_STEPS: Final = 150

#: Seconds; the ceiling lies 5 s, which are 5 ticks here, above a nonce, and a jump takes it far beyond.
_CLOCK_STEPS: Final = (-500, -60, -1, 1, 500)
_JUMP: Final = 60 * SECOND

#: Floors are so many ticks apart, so that they are often there already; and events in a second: a block lasts for 200.
_FLOORS: Final = 100
_EVENTS: Final = 20_000

#: How much befalls the processes, and how often another one goes on: in quiet histories blocks grow.
_FAULTS: Final = (0.18, 0.03)
_TURNS: Final = (0.4, 0.1)

Steps: TypeAlias = Generator[None]
Kind: TypeAlias = Literal["nonce", "jump", "floor"]


class _World:
    """What the processes share: the state as all see it, the state on the disk, the lock, the clock, the marks."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.state = self.disk = KeyState("0123456789abcdef", unit="s")
        self.owner: int | None = None
        self.wall = 1_000
        self.boot = 1
        self.moment = 0
        self.epoch = 0
        self.marks = [0]  # any of them may be the one that a power cut leaves
        self.blocks: dict[int, _Block] = {}
        self.history: list[Operation] = []
        self.broken: list[str] = []
        self._floors: list[tuple[int, int]] = []  # when set, and where

    def now(self) -> Now:
        return Now(self.wall * SECOND, self.moment, f"boot {self.boot}")

    def clock(self) -> float:
        return self.moment / _EVENTS

    def sync(self) -> None:
        if self.variant != "no fsync":
            self.disk = self.state

    def mark(self, nonce: int) -> None:
        if nonce != self.marks[-1]:
            self.marks.append(nonce)
            late = ("epoch not written", "epoch written last")
            self.epoch += self.variant not in late

    def hand_out(self, call: int, nonce: int) -> None:
        self.moment += 1
        self.history.append(Operation(call, self.moment, nonce))
        for since, floor in self._floors:
            if since < call and nonce <= floor:
                self.broken.append(f"{nonce} is not above the floor {floor}")
        self.moment += 1

    def set_floor(self, floor: int) -> None:
        self.moment += 1
        self._floors.append((self.moment, floor))

    def set_apart(self, process: int, first: int, last: int, *, until: float) -> None:
        """Let a process have a block, whose first nonce is handed out otherwise."""
        epoch = self.epoch + (self.variant == "epoch written last")
        found = Epoch((), 0, epoch)
        self.blocks[process] = _Block(first, last, until=until, epoch=found)

    def compare(self) -> None:
        """Compare the state with its mark, as who has the lock does."""
        state, now = self.state, self.now()
        mark = Mark(state.key, 1, self.marks[-1], "s")
        if went_back(state, mark, now.boot):
            self.broken.append(f"{state.nonce} looks as if it were older than {mark}")
        elif state.boot == now.boot:
            self.mark(state.nonce)

    def end(self, process: int) -> None:
        self.blocks.pop(process, None)
        if self.owner == process:
            self.owner = None

    def cut(self, chance: random.Random) -> None:
        self.state = self.disk
        self.marks = [chance.choice(self.marks)]
        self.owner = None
        self.blocks.clear()
        self.boot += 1


def _draw(world: _World, process: int) -> Generator[None, None, int]:
    """Draw a nonce from the block of a process; 0 if it is void."""
    block, variant = world.blocks.get(process, _NONE), world.variant
    nonce = next(block.rest, 0)
    yield
    if not nonce or world.clock() >= block.until:
        return 0
    yield
    valid = world.epoch == block.epoch or variant == "epoch not checked"
    yield
    return nonce if valid else 0


def _take(world: _World, process: int, kind: Kind) -> Steps:
    """Take a nonce, or jump, or set a floor; killed or cut between any two steps."""
    variant, call = world.variant, world.moment
    if kind == "nonce" and (nonce := (yield from _draw(world, process))):
        world.hand_out(call, nonce)
        return
    seen = world.blocks.get(process, _NONE)
    old = world.state
    yield
    while variant != "no lock" and world.owner is not None:
        yield
    world.owner = process
    yield
    if variant != "read before the lock":
        old = world.state
    world.compare()
    now = world.now()
    woken = old if old.boot == now.boot else _woken(variant, old, now)
    yield
    late = world.clock() >= seen.until
    renewal = _Taking(Wanted(), seen, clock=world.clock, late=late)
    floor = _FLOORS * (2 + world.wall // _FLOORS)
    try:
        state = _changed(world, woken, renewal, kind=kind, floor=floor)
    except NonceRangeError:  # a jump went to the bound: nothing is handed out
        world.owner = None
        return
    first = renewal.first if kind == "nonce" else 0
    if variant == "clock trusted" and first:
        first = world.wall
        state = state._replace(nonce=first)
    if state != woken and (yield from _store(world, call, woken, state, first=first)):
        first = 0
    if first:
        world.set_apart(process, first, state.nonce, until=renewal.until)
    world.owner = None
    yield
    yield from _end(world, call, first, floor if kind == "floor" else 0)


def _end(world: _World, call: int, first: int, floor: int) -> Steps:
    """Tell the caller what it has."""
    if first:
        world.hand_out(call, first)
    if floor:
        world.set_floor(floor)
    if world.variant == "epoch written last":
        yield
        world.epoch += 1


def _changed(
    world: _World, woken: KeyState, renewal: _Taking, *, kind: Kind, floor: int
) -> KeyState:
    now = world.now()
    if kind == "jump":
        return jump(woken, now, _JUMP)
    if kind == "floor":
        return raise_floor(woken, now, floor)
    if world.variant == "next block inside the old one":
        woken = woken._replace(nonce=max(0, woken.nonce - 1))
    return renewal(woken, now).state


def _woken(variant: Variant, old: KeyState, now: Now) -> KeyState:
    if variant == "no wake":
        return old._replace(boot=now.boot)
    woken = wake(old, now).state
    if variant == "wake below the ceiling":
        woken = woken._replace(nonce=old.nonce)
    return woken


def _store(
    world: _World, call: int, woken: KeyState, state: KeyState, *, first: int
) -> Generator[None, None, bool]:
    """Store `state`, with a ceiling on the disk first if its nonce needs one; return whether it was handed out."""
    variant, top = world.variant, ceiling(state)
    trusted = woken.ceiling if variant == "two fields" else woken.synced
    if variant == "mark before the commit":
        world.mark(state.nonce)
        yield
    needed = first if variant == "block above the synced ceiling" else state.nonce
    if (needed or state.nonce) <= trusted:
        world.state = state
        yield
        yield from _mark(world, state)
        return False
    if variant == "ceiling last":
        world.state = state
        yield
        if first:
            world.hand_out(call, first)
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
        yield from _mark(world, state)
        return False
    world.state = woken._replace(
        seen=state.seen, offset=state.offset, ceiling=top, synced=0
    )
    yield
    world.sync()
    yield
    world.state = state._replace(ceiling=top, synced=top)
    yield
    yield from _mark(world, state)
    return False


def _mark(world: _World, state: KeyState) -> Steps:
    """Write the mark of what was committed."""
    world.mark(state.nonce)
    yield


def play(variant: Variant, seed: int) -> list[str]:
    """Play one history of `variant` and return what it breaks of I1 and I2, or what looks as if it did."""
    chance = random.Random(seed)
    world = _World(variant)
    faults, turns = chance.choice(_FAULTS), chance.choice(_TURNS)
    running: list[Steps | None] = [None] * _PROCESSES
    process = 0
    for _ in range(_STEPS):
        world.moment += 1
        if chance.random() >= faults:
            if chance.random() < turns:  # a process that runs tends to go on
                process = chance.randrange(_PROCESSES)
            steps = running[process] or _take(world, process, _kind(chance))
            running[process] = steps
            if next(steps, steps) is steps:
                running[process] = None
            continue
        draw = chance.random()
        if draw < 0.2:
            victim = chance.choice((*range(_PROCESSES), world.owner or 0))
            running[victim] = None
            world.end(victim)
        elif draw < 0.4:
            running = [None] * _PROCESSES
            world.cut(chance)
        elif draw < 0.8:
            world.wall = max(1, world.wall + chance.choice(_CLOCK_STEPS))
        else:
            world.disk = world.state  # the system wrote back by itself
    return world.broken + violations(world.history)


def _kind(chance: random.Random) -> Kind:
    draw = chance.random()
    return "jump" if draw < 0.05 else "floor" if draw < 0.15 else "nonce"
