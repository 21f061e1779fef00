"""Nonces of a burst: void as soon as anybody else changes the key's mark, or when its store is gone."""

from __future__ import annotations

import dis
import mmap
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from persistent_nonce import leases, nonces
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    KeyClosedError,
    NonceRangeError,
    StoreUnavailableError,
    UnitMismatchError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.settings import set_tier
from persistent_nonce.state import UNITS, Changed, KeyState, fingerprint
from persistent_nonce.stores.base import LEASE, Epoch
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import counted, databases
from tests.support.clocks import StillClock
from tests.support.counted import Counted, draw
from tests.support.processes import GUARD
from tests.support.workers import KEY

NAME = fingerprint(KEY)

clock, store = databases.clock, counted.store

# --- who makes it void


def test_every_change_of_the_mark_makes_it_void(store: Counted) -> None:
    """A reservation, a floor, another provider: the next nonce is above theirs at once (I1, I2)."""
    provider, other = (NonceProvider(store, KEY, unit="ns") for _ in range(2))
    ways: list[Callable[[], int]] = [
        lambda: provider.reserve(3)[-1],
        other.next,
        lambda: provider.raise_floor(store.read(NAME).nonce + 1000),
        lambda: store.update(NAME, _jump).nonce,
    ]
    for way in ways:
        draw(provider, 20)
        high = way()
        assert provider.next() > high
    with SQLiteStore(store.path, clock=store.clock) as second:
        draw(provider, 30)
        high = NonceProvider(second, KEY).next()
        assert provider.next() > high


def _jump(state: KeyState, now: Any) -> Changed:
    return Changed(nonces.jump(state, now, SECOND))


def test_what_could_be_used_is_taken_next(store: Counted) -> None:
    """After another's nonce a block has the size that was used of the last: beside others nobody wastes much."""
    provider, other = (NonceProvider(store, KEY, unit="ns") for _ in range(2))
    draw(provider, 1 + 100)
    before = other.next()
    provider.next()
    assert store.marks[-1] - before == 100


def test_strict_alternation_takes_one_at_a_time(store: Counted) -> None:
    """Two who take turns move the mark by one each time, and waste nothing (I1, I2)."""
    both = [NonceProvider(store, KEY, unit="ns") for _ in range(2)]
    drawn = [provider.next() for _ in range(50) for provider in both]
    assert drawn == list(range(drawn[0], drawn[0] + 100))
    assert store.marks == drawn


class Revoked(Sequence[int]):
    """The words of an epoch, with something that happens just before, or after, each look at them."""

    def __init__(self, epoch: Epoch, before: Any, after: Any) -> None:
        self._epoch = epoch
        self._before = before
        self._after = after

    def __getitem__(self, at: Any) -> Any:
        """Look, with what happens around it."""
        self._before()
        found = self._epoch.words[at]
        self._after()
        return found

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._epoch.words)


def test_revoked_between_the_draw_and_the_look(store: Counted) -> None:
    """A nonce that was drawn and not yet looked after is not handed out any more: others are above it (I2)."""
    other: list[int] = []

    def revoke() -> None:
        if not other:
            other.extend(NonceProvider(store, KEY).reserve(1))

    store.words = lambda epoch: Revoked(epoch, revoke, bool)
    provider = NonceProvider(store, KEY, unit="ns")
    draw(provider, 2)  # the second brings a block
    assert provider.next() > other[0]


def test_revoked_after_the_look(store: Counted) -> None:
    """A nonce counts as taken with the look: what is changed after it lies above (I1, I2)."""
    other: list[int] = []

    def revoke() -> None:
        if not other:
            other.extend(NonceProvider(store, KEY).reserve(1))

    store.words = lambda epoch: Revoked(epoch, bool, revoke)
    provider = NonceProvider(store, KEY, unit="ns")
    drawn = draw(provider, 4)
    assert drawn[2] < other[0] < drawn[3]


def test_nothing_is_called_after_the_look() -> None:
    """No signal handler runs between the look at the epoch and the return: it could fork, and both would return it."""
    names = [found.opname for found in dis.get_instructions(leases.Drawer.next)]
    look = names.index("BINARY_SUBSCR")  # of the epoch; the process's own follows
    after = names[look : names.index("RETURN_VALUE", look) + 1]
    assert not [name for name in after if "CALL" in name or "BACKWARD" in name]


def test_a_key_that_was_closed(store: Counted) -> None:
    """A key that others close gives nothing more, at once, though its mark has not moved."""
    provider = NonceProvider(store, KEY, unit="ns")
    draw(provider, 3)
    store.update(NAME, lambda state, _: Changed(state._replace(closed=True)))
    with pytest.raises(KeyClosedError):
        provider.next()


@pytest.mark.parametrize("unit", ["ms", "ns"])
def test_a_floor_within_a_block(store: Counted, unit: str) -> None:
    """Every nonce after a floor is above it, also where the mark lies higher, at the end of a block (I2, I10).

    Found by review: such a floor changed nothing, so that the block went on below it.
    """
    provider, other = NonceProvider(store, KEY, unit=unit), NonceProvider(store, KEY)
    for setter in (provider, other):
        for ahead in (0, 1, 3):
            floor = draw(provider, 4)[-1] + ahead
            assert setter.raise_floor(floor) >= floor
            assert provider.next() > floor
    last = store.read(NAME).nonce
    floor = last - nonces.LARGEST_BLOCK
    assert provider.raise_floor(floor) == last  # no block reaches down there


def test_a_greatest_nonce_that_is_set(store: Counted) -> None:
    """No nonce above the greatest that the exchange takes leaves once that is stored (I10)."""
    provider = NonceProvider(store, KEY, unit="ns")
    last = draw(provider, 4)[-1]
    store.update(
        NAME, lambda state, now: Changed(set_tier(state, now, greatest=last + 2))
    )
    with pytest.raises(NonceRangeError):
        provider.next()


def test_a_unit_that_was_changed(store: Counted, clock: StillClock) -> None:
    """After a change of the unit who asked for the old one is refused, and who asked for none follows, at once."""
    strict, meek = NonceProvider(store, KEY, unit="ms"), NonceProvider(store, KEY)
    draw(strict, 5)
    store.update(NAME, lambda state, now: Changed(nonces.set_unit(state, now, "us")))
    with pytest.raises(UnitMismatchError):
        strict.next()
    draw(meek, 5)
    assert meek.next() >= clock.now // UNITS["us"]


def test_a_closed_store(store: Counted) -> None:
    """A store that was closed gives nothing more, at once."""
    provider = NonceProvider(store, KEY, unit="ns")
    draw(provider, 3)
    store.close()
    for use in (provider.next, lambda: provider.last):
        with pytest.raises(StoreUnavailableError, match="closed"):
            use()


# --- what it says of itself


def test_the_last_nonce_of_a_burst(store: Counted) -> None:
    """`last` is the last one taken for who takes them; for others it is a mark that none of them is above."""
    provider, other = NonceProvider(store, KEY, unit="ns"), NonceProvider(store, KEY)
    for _ in range(300):
        assert provider.next() == provider.last <= other.last
    high = other.next()
    assert provider.last == other.last == high


# --- stores that do otherwise


def test_a_store_that_cannot_lease(clock: StillClock) -> None:
    """A store without leases is asked for each nonce."""
    store = MemoryStore(clock=clock)
    provider = NonceProvider(store, KEY, unit="ns")
    for _ in range(50):
        assert provider.next() == provider.last == store.read(NAME).nonce


def test_marks_that_cannot_be_shown(
    store: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no memory can be had for the marks nonces go on rising, without blocks that are ever used (I2)."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(mmap, "mmap", refuse)
    provider = NonceProvider(store, KEY, unit="ns")
    drawn = draw(provider, 50)
    assert drawn == sorted(set(drawn))
    assert len(store.marks) == 50


def test_more_keys_than_the_first_marks_had_room_for(store: Counted) -> None:
    """A file of marks that has grown is shown anew; blocks of other keys are void with the old one (I2)."""
    first = NonceProvider(store, "key-0", unit="ns")
    draw(first, 5)
    for number in range(1, 300):
        provider = NonceProvider(store, f"key-{number}", unit="ns")
        drawn = draw(provider, 4)
        assert drawn == list(range(drawn[0], drawn[0] + 4))
    last = first.last
    assert draw(first, 3)[0] > last - 12


# --- threads


def test_a_thread_that_never_comes_back(
    store: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the one that renews a block is stuck the others ask the store themselves, after a while (I8)."""
    monkeypatch.setattr(leases, "_PATIENCE", 0.05)
    provider = NonceProvider(store, KEY, unit="ns")
    first = provider.next()
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with provider._mutex:
            begun.set()
            over.wait(GUARD)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(GUARD)
    assert provider.next() > first
    over.set()
    thread.join(GUARD)


def test_threads_beside_each_other(store: Counted) -> None:
    """Eight threads at one provider get every nonce of the blocks once, in far fewer transactions (I1)."""
    provider = NonceProvider(store, KEY, unit="ns")
    drawn: list[list[int]] = [[] for _ in range(8)]

    def work(mine: list[int]) -> None:
        mine.extend(draw(provider, 5_000))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    taken = [nonce for mine in drawn for nonce in mine]
    assert len(set(taken)) == len(taken) == 40_000
    assert all(mine == sorted(mine) for mine in drawn)
    assert len(store.marks) < 100


def test_marks_that_were_replaced_by_hand(store: Counted) -> None:
    """Who opens a store whose marks were replaced waits until no block can be used from the old ones (I2, A13)."""
    slept: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("persistent_nonce.stores.writer.time.sleep", slept.append)
        draw(NonceProvider(store, KEY), 3)
        SQLiteStore(store.path).close()
        assert slept == []
        marks = path_of(store.path)
        marks.with_suffix(".new").write_bytes(marks.read_bytes())
        marks.with_suffix(".new").chmod(0o600)
        marks.with_suffix(".new").replace(marks)
        for _ in range(2):  # until one has stored which they are
            with SQLiteStore(store.path) as other:
                NonceProvider(other, KEY).next()
        assert slept == [2 * LEASE / SECOND]
