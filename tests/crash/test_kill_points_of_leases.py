"""A process killed at each point of what voids another's block of nonces: nobody gets a lower nonce than before."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import NonceProvider, SQLiteStore, nonces
from persistent_nonce.clock import Now
from persistent_nonce.state import Changed, KeyState
from tests.support.doomed_works import BEGIN, HALF, Frozen, Tell
from tests.support.killing import GUARD, Doom, forked
from tests.support.workers import KEY

#: More points than any deed has: a guard against one that never comes to its end.
MOST = 500


def _take(provider: NonceProvider, mark: int) -> int:
    return provider.next()


def _reserve(provider: NonceProvider, mark: int) -> int:
    return provider.reserve(3)[-1]


def _raise_floor(provider: NonceProvider, mark: int) -> int:
    provider.raise_floor(mark + 1_000)
    return mark + 1_000  # what it returns may lie at the end of a block that is in use


def _exceed(provider: NonceProvider, mark: int) -> int:
    """Take more nonces than the ceiling on the disk allows."""
    return provider.reserve(6_000)[-1]


def _set_unit(provider: NonceProvider, mark: int) -> int:
    """Count in a finer unit, in which the mark is a thousand times as great."""

    def change(state: KeyState, now: Now) -> Changed:
        return Changed(nonces.set_unit(state, now, "us"))

    provider._store.update(provider.key, change)
    return mark * 1_000  # as above


#: What voids a block, and how many points it has at least.
DEEDS: Final[dict[str, tuple[Callable[[NonceProvider, int], int], int]]] = {
    "a nonce": (_take, 10),
    "a reservation": (_reserve, 10),
    "a floor": (_raise_floor, 14),
    "a ceiling": (_exceed, 18),
    "a unit": (_set_unit, 14),
}


@pytest.mark.timeout(600)  # a guard; it takes seconds
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "not yet"])
@pytest.mark.parametrize("name", DEEDS)
def test_killed_while_it_voids_a_block(
    tmp_path: Path, name: str, at_once: bool
) -> None:
    """Once another has repeated what a killed process began, no burst goes on below that (I1, I2, I3).

    The burst goes on at once after the kill too, or not before the repetition.
    """
    deed, least = DEEDS[name]
    clock = Frozen(BEGIN)
    number, killed, points = 0, True, set()
    while killed:
        number += 1
        assert number < MOST
        path = tmp_path / f"{number}.db"
        with (
            SQLiteStore(path, clock=clock, timeout=GUARD) as store,
            SQLiteStore(path, clock=clock, timeout=GUARD) as another,
        ):
            bursting, second = (NonceProvider(s, KEY) for s in (store, another))
            drawn = [bursting.next() for _ in range(HALF)]
            mark = store.read(bursting.key).nonce
            assert bursting.last == drawn[-1] < mark  # half of a block is left

            def doomed(
                tell: Tell, path: Path = path, mark: int = mark, number: int = number
            ) -> None:
                with SQLiteStore(path, clock=clock, timeout=GUARD) as store:
                    provider = NonceProvider(store, KEY)
                    with Doom(number, tell):
                        tell(f"issued {deed(provider, mark)}")

            lines, killed = forked(doomed)
            assert killed or lines[-1] == "end", lines
            points |= {line for line in lines if line.startswith("point ")}
            issued = [int(line[7:]) for line in lines if line.startswith("issued ")]
            if at_once:
                drawn.append(bursting.next())
            repeated = deed(second, mark)
            drawn.append(bursting.next())
        assert all(one < two for one, two in pairwise(drawn)), (number, lines)
        assert repeated < drawn[-1], (number, lines)
        if name == "a floor":
            continue
        assert not {repeated, *issued} & set(drawn), (number, lines)
        assert all(nonce > drawn[HALF - 1] for nonce in issued)
    assert len(points) >= least
