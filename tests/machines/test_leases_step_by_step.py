"""Bursts of one process with another in the middle of each of their steps, and what a kill leaves of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.base import LEASE
from tests.support import machine_procedures as procedures
from tests.support.machine_disk import POINTS, Volatile
from tests.support.machine_files import Files
from tests.support.machine_procedures import Order
from tests.support.machine_runner import stepwise
from tests.support.machine_world import KEYS, Actor, Process, World

KEY: Final = KEYS[0]
COUNT: Final = 40

#: What another process does in one step, and more of them than any of it writes.
Deed: TypeAlias = Callable[[World, Process], Actor]
MORE: Final = 14


def _floor(world: World, process: Process) -> Actor:
    mark = process.store.read(fingerprint(KEY)).nonce
    return procedures.raise_floor(world, process, KEY, mark + 7)


def _draw(world: World, process: Process) -> Actor:
    return procedures.burst(world, process, KEY, 1)


def _reserve(world: World, process: Process) -> Actor:
    return procedures.reserve(world, process, KEY, 3)


def _call(world: World, process: Process) -> Actor:
    return procedures.call(world, process, Order(KEY, ends="not_sent"))


#: Each with the steps that it has gone already when it comes between.
DEEDS: Final[dict[str, tuple[Deed, int]]] = {
    "a floor": (_floor, 0),
    "a nonce": (_draw, 0),
    "a reservation": (_reserve, 0),
    "a call that joins": (_call, 1),
    "a call that begins": (_call, 2),
}


@contextmanager
def _world(tmp_path: Path, kind: str) -> Iterator[World]:
    place = Volatile() if kind == "disk" else Files(tmp_path)
    world = World(place, ("ms", "us"), None, lambda _: None)
    with stepwise():
        try:
            yield world
        finally:
            world.bury_all()


def _go(world: World, actor: Actor, steps: int) -> None:
    for _ in range(steps):
        if not actor.procedure.ended:
            world.advance(actor)


@pytest.mark.parametrize("kind", ["disk", "files"])
def test_a_burst_takes_few_changes(tmp_path: Path, kind: str) -> None:
    """Nonces of a burst come out of blocks here too, until these are void by their time; all in a row (I1, I2)."""
    with _world(tmp_path, kind) as world:
        ledger = world.ledgers[fingerprint(KEY)]
        actor = procedures.burst(world, world.begin_process(), KEY, 3 * COUNT)
        _go(world, actor, COUNT)
        assert ledger.changes < COUNT // 8
        before = ledger.changes
        for _ in range(COUNT):
            world.pass_time(LEASE + 1)
            _go(world, actor, 1)
        assert ledger.changes == before + COUNT
        _go(world, actor, COUNT)
        assert ledger.changes < before + COUNT + COUNT // 8
        assert actor.procedure.ended


@pytest.mark.parametrize("kind", ["disk", "files"])
@pytest.mark.parametrize("deed", DEEDS)
def test_others_in_the_middle_of_a_draw(tmp_path: Path, kind: str, deed: str) -> None:
    """Whatever another process does between a draw and its look, or behind the look: all is in order (I1, I2, I10)."""
    work, gone = DEEDS[deed]
    for place in range(8):
        with _world(tmp_path, kind) as world:
            bursting, other = world.begin_process(), world.begin_process()
            actor = procedures.burst(world, bursting, KEY, COUNT)
            _go(world, actor, 4)  # the next ones come out of a block
            intruder = work(world, other)
            _go(world, intruder, gone)
            after = procedures.burst(world, world.begin_process(), KEY, 1)
            # Whoever can go on stands in the order in which they began; the bursting one is in the middle of a step.
            world.between.extend([*[None] * place, 0, 1])
            before = world.disturbed
            _go(world, actor, COUNT)
            assert world.disturbed > before
            _go(world, after, 1)
            assert actor.procedure.error is after.procedure.error is None


@pytest.mark.parametrize("kind", ["disk", "files"])
def test_a_thread_in_the_middle_of_a_draw(tmp_path: Path, kind: str) -> None:
    """A thread that draws from the same block, between another's draw and its look, gets new ones in order (I1, I2)."""
    for place in range(12):
        with _world(tmp_path, kind) as world:
            process = world.begin_process()
            one, two = (procedures.burst(world, process, KEY, COUNT) for _ in range(2))
            world.between.extend([*[None] * place, *[0] * 9])
            _go(world, one, COUNT)
            _go(world, two, COUNT)
            assert world.disturbed
            assert len(world.ledgers[fingerprint(KEY)].history) == 2 * COUNT


@pytest.mark.parametrize("kind", ["disk", "files"])
def test_a_floor_that_is_there_already_holds_for_blocks(
    tmp_path: Path, kind: str
) -> None:
    """Who finds a floor set by a process that was killed leaves no block below it in use (I3, I10).

    Between its commit and the change of the epoch a process can be killed; the floor is stored, and whoever sets it
    again changes nothing.
    """
    for point in range(len(POINTS) if kind == "disk" else MORE):
        with _world(tmp_path, kind) as world:
            bursting, killed, again = (world.begin_process() for _ in range(3))
            actor = procedures.burst(world, bursting, KEY, COUNT)
            _go(world, actor, 4)
            mark = bursting.store.read(fingerprint(KEY)).nonce
            raise_to: Callable[..., Any] = partial(
                procedures.raise_floor, world, key=KEY, floor=mark + SECOND
            )
            dying = raise_to(process=killed)
            world.place.arm(killed.store.inner, point)
            _go(world, dying, 1)
            _go(world, raise_to(process=again), 1)
            _go(world, actor, COUNT)
            assert actor.procedure.error is None
