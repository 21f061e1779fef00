"""Nonces of a burst: how many are taken at once, and how far that may lead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import UNITS, KeyState, fingerprint
from persistent_nonce.stores.base import LEASE
from tests.support import counted, databases
from tests.support.clocks import StillClock
from tests.support.counted import Counted, draw
from tests.support.workers import KEY

NAME = fingerprint(KEY)

clock, store = databases.clock, counted.store

# --- how large a block is


@pytest.mark.parametrize(
    ("unit", "sizes"),
    [
        ("ns", [16_384, 16_384]),
        ("us", [10_000, 16_384, 16_384]),
        ("ms", [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 16_384]),
        ("s", [2, 4, 8, 16, 32]),
    ],
)
def test_a_burst_takes_more_and_more(
    store: Counted, unit: str, sizes: list[int]
) -> None:
    """A block that was used up in time is followed by a larger one: within 10 ms of ticks at first, then doubled."""
    provider = NonceProvider(store, KEY, unit=unit)
    first = provider.next()
    drawn = draw(provider, sum(sizes))
    assert drawn == list(range(first + 1, first + 1 + sum(sizes)))
    assert store.sizes == sizes


def test_a_slow_drawer_takes_one_at_a_time(store: Counted, clock: StillClock) -> None:
    """Who asks after the last block was void takes one, also in the middle of a large block."""
    provider = NonceProvider(store, KEY, unit="ns")
    draw(provider, 20)
    for _ in range(3):
        clock.advance(LEASE / SECOND)
        assert provider.next() == clock.now
        assert store.marks[-1] == clock.now


def test_a_block_lasts_no_longer_than_it_may(store: Counted, clock: StillClock) -> None:
    """A block is used until 10 ms after the time read under the lock, and not at that moment any more."""
    provider = NonceProvider(store, KEY, unit="ns")
    draw(provider, 2)
    clock.advance(LEASE / SECOND - 1e-6)
    taken = len(store.marks)
    provider.next()
    assert len(store.marks) == taken
    clock.advance(1e-6)
    provider.next()
    assert len(store.marks) == taken + 1


def test_its_time_begins_before_the_commit(store: Counted, clock: StillClock) -> None:
    """A block whose commit has taken too long is void when it comes; its first nonce is good."""
    provider = NonceProvider(store, KEY, unit="ns")
    provider.next()
    write = store._writer._marks.write

    def slowly(state: KeyState, revision: int) -> None:
        clock.advance(LEASE / SECOND)
        write(state, revision)

    store._writer._marks.write = slowly  # type: ignore[method-assign]  # the disk takes its time
    second, third = draw(provider, 2)
    assert third > second
    assert store.sizes[0] == 16_384
    assert store.marks[-1] == third


@given(
    unit=st.sampled_from(["ms", "us", "10ns", "ns"]),
    gaps=st.lists(
        st.tuples(
            st.integers(1, 400), st.sampled_from([0.0, 1e-4, 4e-3, 9e-3, 0.02, 1.0])
        ),
        max_size=30,
    ),
)
def test_how_far_a_mark_runs_ahead(
    unit: str, gaps: list[tuple[int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The mark is never further ahead of the clock than 10 ms and twice what a burst has really used (I10)."""
    clock = StillClock()
    tick, ahead = UNITS[unit], 0
    with Counted(tmp_path_factory.mktemp("lead") / "nonces.db", clock) as store:
        provider, last = NonceProvider(store, KEY, unit=unit), 0
        for count, pause in gaps:
            for nonce in draw(provider, count):
                assert nonce > last
                last = nonce
            ahead = max(0, ahead) + 2 * count
            lead = store.read(NAME).nonce - clock.now // tick
            assert lead <= ahead + LEASE // tick
            clock.advance(pause)
            ahead -= round(pause * SECOND) // tick


@pytest.mark.parametrize("unit", ["ms", "ns"])
@pytest.mark.parametrize("rate", [5, 50])
def test_a_slow_drawer_stays_near_the_clock(
    store: Counted, clock: StillClock, unit: str, rate: int
) -> None:
    """Who draws 5 or 50 nonces a second for a minute never leads the clock."""
    provider = NonceProvider(store, KEY, unit=unit)
    for _ in range(60 * rate):
        assert provider.next() == clock.now // UNITS[unit]
        clock.advance(1 / rate)


# --- what bounds it


@pytest.mark.parametrize("unit", ["ms", "s"])
def test_a_runaway_loop_ends_at_the_bound(store: Counted, unit: str) -> None:
    """Every nonce up to the bound can be had, and none above it, by bursts as well (I10)."""
    provider = NonceProvider(store, KEY, unit=unit)
    first = provider.next()
    bound = first + 900 * SECOND // UNITS[unit]
    drawn = draw(provider, bound - first)
    assert drawn[-1] == bound
    with pytest.raises(NonceRangeError, match="ahead of its clock"):
        provider.next()
    assert provider.last == bound


def test_a_block_lies_below_what_is_on_the_disk(store: Counted) -> None:
    """No nonce of a block lies above a ceiling of which it is known that it is on the disk (I4)."""
    provider = NonceProvider(store, KEY, unit="ms")
    for _ in range(30_000):
        nonce = provider.next()
        if nonce == store.marks[-1]:  # the last of a block
            state = store.read(NAME)
            assert nonce <= state.synced <= state.ceiling
