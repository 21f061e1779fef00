"""Which nonce comes next, by examples; the statements for all inputs are in tests/property."""

from __future__ import annotations

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import KeyClosedError, NonceRangeError, UnitMismatchError
from persistent_nonce.state import MAX_NONCE, UNITS
from tests.support.states import KEY, WALL, at, fresh

MS = WALL // 10**6


@pytest.mark.parametrize(("unit", "tick"), UNITS.items())
def test_the_first_nonce_is_the_clock(unit: str, tick: int) -> None:
    """A fresh key starts at the clock's reading in its unit."""
    state = nonces.issue(fresh(unit), at())
    assert state.nonce == state.seen == WALL // tick


def test_the_default_unit_is_stored() -> None:
    """A key for which nobody asked for a unit counts ms from its first nonce or floor on."""
    assert nonces.issue(fresh(), at()).unit == "ms"
    assert nonces.raise_floor(fresh(), at(), 5).unit == "ms"


def test_one_more_than_the_last() -> None:
    """While the clock stands or goes back, each nonce is one more than the last (I1, I2)."""
    state = nonces.issue(fresh(), at())
    for now in (at(), at(0.0005), at(-3_600), at(step=-(10**8))):
        following = nonces.issue(state, now)
        assert following.nonce == state.nonce + 1
        assert following.seen == state.seen
        state = following


def test_a_reserved_range_ends_at_the_mark() -> None:
    """A range of `count` starts at the clock or above the last, and the mark is its end."""
    state = nonces.issue(fresh(), at(), 10)
    assert state.nonce == MS + 9
    assert nonces.issue(state, at(), 10).nonce == MS + 19


def test_nothing_is_issued_above_the_bound() -> None:
    """The bound itself is the last nonce; the next is an error that says what to do (I10)."""
    state = nonces.issue(fresh(), at(), 900_001)
    assert state.nonce == state.bound
    with pytest.raises(NonceRangeError, match=r"900 s ahead.*loop.*finer unit"):
        nonces.issue(state, at())
    assert nonces.issue(state, at(0.001)).nonce == state.nonce + 1


def test_a_clock_set_back_stops_nobody() -> None:
    """The bound follows the greatest reading that was used, not the present one (I10)."""
    state = nonces.issue(fresh(), at(), 1_000)
    assert nonces.issue(state, at(step=-86_400.0)).nonce == state.nonce + 1


def test_the_end_of_the_range() -> None:
    """The last nonce is 2**63 - 1, then there is a NonceRangeError that says so."""
    state = nonces.raise_floor(fresh("ns"), at(), MAX_NONCE - 1)
    state = nonces.issue(state, at())
    assert state.nonce == MAX_NONCE
    with pytest.raises(NonceRangeError, match=r"out of nonces.*new key"):
        nonces.issue(state, at())


def test_a_closed_key_issues_nothing() -> None:
    """A closed key refuses with its diagnosis and with what opens it."""
    state = fresh()._replace(closed=True, diagnosis="another program")
    with pytest.raises(KeyClosedError, match=rf"{KEY}.*another program.*reopen"):
        nonces.issue(state, at())
    nonces.check_open(fresh())


def test_ceiling() -> None:
    """The ceiling lies 5 s of ticks above the mark, within the bound, never below the mark (I4, I10)."""
    state = nonces.issue(fresh(), at())
    assert nonces.ceiling(state) == state.nonce + 5_000
    near = state._replace(nonce=state.bound - 1)
    assert nonces.ceiling(near) == state.bound
    above = state._replace(nonce=state.bound + 7)
    assert nonces.ceiling(above) == state.bound + 7


def test_jump_from_the_clock_and_from_the_mark() -> None:
    """A jump goes on from the mark or the clock, whichever is greater, and remembers where it landed."""
    state = nonces.issue(fresh(), at())
    assert nonces.jump(state, at(), 60 * SECOND).nonce == MS + 60_000
    later = nonces.jump(state, at(100), 60 * SECOND)
    assert later.nonce == later.jumped_at == MS + 160_000
    assert nonces.jump(later, at(100), 60 * SECOND).nonce == MS + 220_000


def test_jump_stays_within_the_bound() -> None:
    """A jump ends at the bound, and one made there moves nothing (I10)."""
    state = nonces.jump(nonces.issue(fresh(), at()), at(), 10**6 * SECOND)
    assert state.nonce == state.bound == MS + 900_000
    assert nonces.jump(state, at(), 60 * SECOND).nonce == state.nonce


def test_the_greatest_nonce_that_the_exchange_takes() -> None:
    """Up to it nonces are issued, and neither issue, jump nor floor goes beyond (I10; faults A23)."""
    most = WALL // 10**6 + 30_000
    state = nonces.issue(fresh("ms")._replace(greatest=most), at())
    jumped = nonces.jump(state, at(), 60 * SECOND)
    assert jumped.nonce == most
    last = nonces.issue(state, at(), 30_000)
    assert last.nonce == most
    for full in (jumped, last):
        with pytest.raises(NonceRangeError, match=f"above {most}"):
            nonces.issue(full, at())
    with pytest.raises(NonceRangeError, match="leaves no nonce"):
        nonces.raise_floor(state, at(), most)
    assert nonces.issue(nonces.raise_floor(state, at(), most - 1), at()).nonce == most
    assert nonces.issue(state, at(30)).nonce == most
    with pytest.raises(NonceRangeError, match=f"the clock.*{most}"):
        nonces.issue(state, at(30.001))


def test_a_unit_beyond_the_greatest_nonce() -> None:
    """A unit in which the clock shows more than the exchange takes is refused at once (I10; faults A23)."""
    state = fresh()._replace(greatest=2**53 - 1)
    assert nonces.issue(nonces.set_unit(state, at(), "us"), at()).nonce == WALL // 1_000
    for unit in ("10ns", "ns"):
        with pytest.raises(NonceRangeError, match="does not fit"):
            nonces.set_unit(state, at(), unit)
        with pytest.raises(NonceRangeError, match="the clock"):
            nonces.issue(state._replace(unit=unit), at())


def test_raise_floor() -> None:
    """A floor above the mark becomes the mark, opens the key, and lets the bound reach above it (I10)."""
    closed = fresh()._replace(closed=True, diagnosis="x", refusals=3, nonce=7)
    state = nonces.raise_floor(closed, at(), MS + 10**9)
    assert (state.nonce, state.offset) == (MS + 10**9, 10**9)
    assert (state.closed, state.diagnosis, state.refusals) == (False, "", 0)
    assert nonces.issue(state, at()).nonce == MS + 10**9 + 1
    assert state.bound == MS + 10**9 + 900_000


@pytest.mark.parametrize("at_least", [0, 41, 42])
def test_a_floor_below_the_mark_changes_nothing(at_least: int) -> None:
    """A floor that the mark has reached lowers nothing and leaves a closed key closed (I10)."""
    state = fresh()._replace(nonce=42, closed=True)
    assert nonces.raise_floor(state, at(), at_least) is state


@pytest.mark.parametrize("below", [0, 1, nonces.LARGEST_BLOCK - 1])
def test_a_floor_that_may_lie_within_a_block(below: int) -> None:
    """A floor that the mark may have passed with nonces not drawn yet moves it by one, which voids them (I2)."""
    state = nonces.issue(fresh("ns"), at())
    moved = state._replace(nonce=state.nonce + 1)
    assert nonces.raise_floor(state, at(), state.nonce - below) == moved


@pytest.mark.parametrize("below", [0, 1])
def test_a_floor_below_every_block(below: int) -> None:
    """A floor that lies below the largest block changes nothing."""
    state = nonces.issue(fresh("ns"), at())
    at_least = state.nonce - nonces.LARGEST_BLOCK - below
    assert nonces.raise_floor(state, at(), at_least) is state


def test_a_floor_near_zero() -> None:
    """A block has no nonce 0."""
    state = fresh("ns")._replace(nonce=5)
    assert nonces.raise_floor(state, at(), 0) is state
    assert nonces.raise_floor(state, at(), 1).nonce == 6


def test_a_floor_at_the_bound() -> None:
    """Where hardly a nonce is left below the bound there is no block either, and the last is not burnt (I10)."""
    state = nonces.issue(fresh("ns"), at())
    for left in (0, 1):
        near = state._replace(nonce=state.bound - left)
        assert nonces.raise_floor(near, at(), near.nonce) is near
    near = state._replace(nonce=state.bound - 2)
    assert nonces.raise_floor(near, at(), near.nonce).nonce == state.bound - 1


@pytest.mark.parametrize("at_least", [-1, MAX_NONCE, 2**64])
def test_an_impossible_floor(at_least: int) -> None:
    """A floor that is no nonce, or leaves none above it, is refused."""
    with pytest.raises(NonceRangeError, match="floor"):
        nonces.raise_floor(fresh(), at(), at_least)


def test_reopen() -> None:
    """Opening forgets the refusals and their diagnosis, and moves nothing."""
    state = fresh()._replace(nonce=9, closed=True, diagnosis="x", refusals=3)
    assert nonces.reopen(state) == fresh()._replace(nonce=9)


def test_set_unit() -> None:
    """A finer unit multiplies every mark, voids the synced one, and opens the key."""
    state = nonces.jump(nonces.issue(fresh("ms"), at()), at(), SECOND)
    state = state._replace(
        offset=3, ceiling=state.nonce + 5, synced=state.nonce + 5, closed=True
    )
    finer = nonces.set_unit(state, at(), "us")
    assert finer == state._replace(
        unit="us",
        nonce=state.nonce * 1_000,
        seen=state.seen * 1_000,
        offset=3_000,
        ceiling=state.ceiling * 1_000,
        synced=0,
        jumped_at=state.jumped_at * 1_000,
        closed=False,
    )
    assert nonces.issue(finer, at()).nonce == finer.nonce + 1


def test_set_the_same_unit() -> None:
    """The unit that a key has already changes nothing."""
    state = nonces.issue(fresh("us"), at())
    assert nonces.set_unit(state, at(), "us") is state


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_a_coarser_unit(unit: str) -> None:
    """A coarser unit would send nonces down, so it is refused (I10)."""
    with pytest.raises(UnitMismatchError, match=rf"us; {unit} is coarser"):
        nonces.set_unit(nonces.issue(fresh("us"), at()), at(), unit)


@pytest.mark.parametrize("unit", UNITS)
def test_a_fresh_key_takes_any_unit(unit: str) -> None:
    """A key that counts nothing yet can be set to any unit, a coarser one than the default too."""
    state = nonces.set_unit(fresh(), at(), unit)
    assert (state.unit, state.nonce) == (unit, 0)


def test_a_mark_that_does_not_fit_into_the_unit() -> None:
    """A mark far ahead of the clock may leave no room in a finer unit; then nothing changes."""
    state = nonces.raise_floor(fresh("ms"), at(), 10**13)
    with pytest.raises(NonceRangeError, match="does not fit"):
        nonces.set_unit(state, at(), "ns")
    assert nonces.set_unit(state, at(), "us").nonce == 10**16


def test_a_ceiling_that_does_not_fit_is_cut() -> None:
    """A ceiling never exceeds 2**63 - 1, whatever the unit."""
    state = fresh("us")._replace(
        nonce=(MAX_NONCE - 10) // 1_000, ceiling=MAX_NONCE // 1_000 + 5
    )
    assert nonces.set_unit(state, at(), "ns").ceiling == MAX_NONCE
