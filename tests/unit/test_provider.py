"""What a provider makes of its arguments, and how it speaks of its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    ConfigurationError,
    KeyClosedError,
    NonceRangeError,
    UnitMismatchError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import MAX_NONCE, Changed, fingerprint
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock

MS = 1_000_000


@pytest.fixture
def clock() -> StillClock:
    """Return a clock that stands still."""
    return StillClock()


@pytest.fixture
def store(clock: StillClock) -> MemoryStore:
    """Return a store by that clock."""
    return MemoryStore(clock=clock)


def test_key_is_known_by_its_fingerprint(store: MemoryStore) -> None:
    """Of the key itself nothing is kept, in the object or in the store (I11)."""
    provider = NonceProvider(store, "MARKER-of-the-key", label="a bot")
    provider.next()
    assert provider.key == fingerprint("MARKER-of-the-key")
    assert store.keys() == [provider.key]
    for kept in (vars(provider), repr(provider), store.read(provider.key)):
        assert "MARKER" not in str(kept)


@pytest.mark.parametrize(
    ("unit", "tick"),
    [("s", SECOND), ("ms", MS), ("us", 1_000), ("10ns", 10), ("ns", 1)],
)
def test_first_nonce_is_the_clock_in_the_unit(
    store: MemoryStore, clock: StillClock, unit: str, tick: int
) -> None:
    """The first nonce of a key is the clock's reading in its unit."""
    assert NonceProvider(store, "key", unit=unit).next() == clock.now // tick


def test_unit_is_ms_and_then_followed(store: MemoryStore, clock: StillClock) -> None:
    """Without an opinion a key counts in ms; later callers without one follow what the first asked for."""
    assert NonceProvider(store, "a").next() == clock.now // MS
    NonceProvider(store, "b", unit="us").next()
    assert NonceProvider(store, "b").next() == clock.now // 1_000 + 1


def test_another_unit_is_refused(store: MemoryStore) -> None:
    """A caller that asks for another unit than the stored one gets an error and no nonce."""
    provider = NonceProvider(store, "key", unit="ms")
    last = provider.next()
    for use in (
        NonceProvider(store, "key", unit="ns").next,
        lambda: NonceProvider(store, "key", unit="ns").reserve(5),
        lambda: NonceProvider(store, "key", unit="ns").raise_floor(last + 5),
    ):
        with pytest.raises(UnitMismatchError, match="counts in ms, not ns"):
            use()
    assert provider.last == last


def test_label_is_stored_with_the_next_nonce(store: MemoryStore) -> None:
    """A label is shown for the key once it has been used."""
    provider = NonceProvider(store, "key", label="the bot")
    provider.next()
    assert store.read(provider.key).label == "the bot"


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": ""},
        {"key": "  "},
        {"key": b"bytes"},
        {"unit": "hours"},
        {"unit": ""},
        {"label": ""},
        {"label": "a/b"},
        {"label": "a\nb"},
        {"label": "x" * 65},
    ],
)
def test_unusable_arguments(store: MemoryStore, arguments: dict[str, str]) -> None:
    """An argument that cannot be used is refused when the provider is made, before any state is touched."""
    key = arguments.pop("key", "key")
    with pytest.raises(ConfigurationError):
        NonceProvider(store, key, **arguments)
    assert store.keys() == []


def test_provider_is_a_nonce_function(store: MemoryStore) -> None:
    """A provider can be called, for clients that want a function."""
    provider = NonceProvider(store, "key")
    assert provider() == provider.last == provider() - 1


def test_reservation_is_a_block(store: MemoryStore) -> None:
    """A reservation is a range of as many nonces, right above the mark; the next nonce follows it."""
    provider = NonceProvider(store, "key")
    first = provider.next()
    assert provider.reserve(1) == range(first + 1, first + 2)
    block = provider.reserve(1_000)
    assert block == range(first + 2, first + 1_002)
    assert provider.next() == first + 1_002


@pytest.mark.parametrize("count", [0, -1, 1_000_001, 1.0, "1", True, None])
def test_unusable_count(store: MemoryStore, count: int) -> None:
    """A count that is no number from 1 to a million reserves nothing."""
    with pytest.raises(ConfigurationError):
        NonceProvider(store, "key").reserve(count)
    assert store.keys() == []


def test_last_consumes_nothing(store: MemoryStore) -> None:
    """The mark can be looked at without moving it, also before the first nonce."""
    provider = NonceProvider(store, "key")
    assert provider.last == 0
    last = provider.next()
    assert [provider.last, provider.last] == [last, last]
    assert provider.next() == last + 1


def test_floor_is_raised_and_never_lowered(store: MemoryStore) -> None:
    """Every nonce after raise_floor is above it, and a lower floor changes nothing (I10)."""
    provider = NonceProvider(store, "key")
    last = provider.next()
    high = last + 10_000_000
    assert provider.raise_floor(high) == high == provider.last
    assert provider.next() == high + 1
    assert provider.raise_floor(last) == high + 1
    assert provider.next() == high + 2


def test_bound_moves_with_a_floor(store: MemoryStore) -> None:
    """Above a floor that was raised far ahead there is room for 15 minutes of nonces again, no more (I10)."""
    provider = NonceProvider(store, "key")
    high = provider.next() + 10_000_000
    provider.raise_floor(high)
    assert provider.reserve(900_000)[-1] == high + 900_000
    with pytest.raises(NonceRangeError):
        provider.next()


@pytest.mark.parametrize("floor", [-1, MAX_NONCE, MAX_NONCE + 1])
def test_floor_without_nonces_above_it(store: MemoryStore, floor: int) -> None:
    """A floor that leaves no nonce above it is refused (A23)."""
    provider = NonceProvider(store, "key")
    last = provider.next()
    with pytest.raises(NonceRangeError):
        provider.raise_floor(floor)
    assert provider.last == last


@pytest.mark.parametrize("floor", [1.5, "5", None, True])
def test_floor_that_is_no_number(store: MemoryStore, floor: int) -> None:
    """A floor is a whole number."""
    with pytest.raises(ConfigurationError):
        NonceProvider(store, "key").raise_floor(floor)


def test_raised_floor_opens_a_closed_key(store: MemoryStore) -> None:
    """A closed key refuses every nonce, until its floor is raised above its mark."""
    provider = NonceProvider(store, "key")
    last = provider.next()
    store.update(provider.key, lambda state, now: Changed(state._replace(closed=True)))
    for use in (provider.next, lambda: provider.reserve(2)):
        with pytest.raises(KeyClosedError):
            use()
    provider.raise_floor(last)
    with pytest.raises(KeyClosedError):
        provider.next()
    provider.raise_floor(last + 1)
    assert provider.next() == last + 2


@pytest.mark.parametrize("left", [2, 1, 0])
def test_end_of_all_nonces(tmp_path: Path, left: int) -> None:
    """Up to 2**63 - 1 nonces are handed out, and then errors, over a real store (A23)."""
    with SQLiteStore(tmp_path / "nonces.db", clock=StillClock()) as store:
        provider = NonceProvider(store, "key", unit="ns")
        provider.raise_floor(MAX_NONCE - 3)
        provider.reserve(3 - left)
        drawn = [provider.next() for _ in range(left)]
        assert drawn == list(range(MAX_NONCE - left + 1, MAX_NONCE + 1))
        for _ in range(2):
            with pytest.raises(NonceRangeError, match="out of nonces"):
                provider.next()
        assert provider.last == MAX_NONCE


YEARS = {
    "1969": -SECOND,
    "1900": -(70 * 365 * 86_400 * SECOND),
    "2300": 10_413_792_000 * SECOND,
}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "10ns", "ns"])
@pytest.mark.parametrize("year", YEARS)
def test_clock_far_away(tmp_path: Path, year: str, unit: str) -> None:
    """A clock before 1970 or after 2262 gives increasing nonces or NonceRangeError, never another error (A22)."""
    clock = StillClock(wall=YEARS[year])
    with SQLiteStore(tmp_path / "nonces.db", clock=clock) as store:
        provider = NonceProvider(store, "key", unit=unit)
        if year == "2300" and unit == "ns":
            for _ in range(2):
                with pytest.raises(NonceRangeError):
                    provider.next()
            clock.now = (
                StillClock().now
            )  # a clock that was wrong for a while costs the key nothing
            assert provider.next() == clock.now
            return
        first = provider.next()
        assert first > 0
        assert provider.next() == first + 1
        assert provider.raise_floor(first + 20_000) == first + 20_000
        clock.advance(-86_400)
        assert provider.next() == first + 20_001
