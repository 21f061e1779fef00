"""What nonces owe, over each store: unique, ordered, bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import monotonic_ns

import pytest

from persistent_nonce.errors import NonceRangeError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.base import Store
from tests.support.checker import Operation, violations
from tests.support.clocks import StillClock

THREADS = 20
EACH = 5_000


def test_threads_draw_unique_and_ordered_nonces(store: Store) -> None:
    """20 threads take 5,000 nonces each: no two the same, none below one returned before it was asked for (I1, I2)."""
    provider = NonceProvider(
        store, "key", unit="ns"
    )  # by a clock that stands still: it helps nobody
    first = provider.next()

    def draw(_: int) -> list[Operation]:
        history = []
        for _ in range(EACH):
            call = monotonic_ns()
            value = provider.next()
            history.append(Operation(call, monotonic_ns(), value))
        return history

    with ThreadPoolExecutor(THREADS) as pool:
        history = [
            operation for part in pool.map(draw, range(THREADS)) for operation in part
        ]
    drawn = sorted(operation.value for operation in history)
    assert len(set(drawn)) == THREADS * EACH
    assert drawn[0] > first
    assert violations(history) == []


def test_nonce_is_the_clock_or_one_more(store: Store, clock: StillClock) -> None:
    """A nonce is the clock's reading in the key's unit, or one more than the last if that is greater."""
    provider = NonceProvider(store, "key")
    first = provider.next()
    assert first == clock.now // 1_000_000
    assert provider.next() == first + 1
    clock.advance(10)
    assert provider.next() == first + 10_000
    clock.now -= 3_600_000_000_000
    assert provider.next() == first + 10_001


def test_tight_loop_ends_at_the_bound(store: Store) -> None:
    """In ms, with the clock standing still, 15 minutes of lead are handed out, then errors, to all in turn (I10)."""
    provider = NonceProvider(store, "key")
    first = provider.next()
    block = provider.reserve(899_990)
    assert (block[0], block[-1]) == (first + 1, first + 899_990)
    rest = [provider.next() for _ in range(10)]
    assert rest == list(range(first + 899_991, first + 900_001))
    for _ in range(2):
        with pytest.raises(NonceRangeError, match="900 s ahead"):
            provider.next()
    with pytest.raises(NonceRangeError):
        provider.reserve(1)
    assert provider.last == first + 900_000


def test_time_opens_the_bound_again(store: Store, clock: StillClock) -> None:
    """Once the clock has gone on, a key at its bound has as many nonces again as ticks went by (I10)."""
    provider = NonceProvider(store, "key")
    provider.reserve(900_001)
    clock.advance(0.005)
    last = provider.last
    assert [provider.next() for _ in range(5)] == list(range(last + 1, last + 6))
    with pytest.raises(NonceRangeError):
        provider.next()


def test_refused_reservation_takes_nothing(store: Store) -> None:
    """A block that would pass the bound is not handed out in part (I10)."""
    provider = NonceProvider(store, "key")
    provider.reserve(800_000)
    before = provider.last
    with pytest.raises(NonceRangeError):
        provider.reserve(200_000)
    assert provider.last == before
    assert provider.next() == before + 1
