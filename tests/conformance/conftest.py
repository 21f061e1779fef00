"""The stores that the conformance suite holds to the contract in `persistent_nonce.stores.base`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persistent_nonce.clock import SYSTEM_CLOCK, Clock
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock

#: Opens the store of a test by a clock; again after it was closed, with all that was in it.
Opener = Callable[[Clock], Store]


class _Remembered(MemoryStore):
    """A MemoryStore that outlives its closing, as a database does."""

    def __init__(self, *, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.opened = True

    def reopen(self, clock: Clock) -> None:
        """Go on by another clock, with another session."""
        self.clock = clock
        self._closed = False
        if self._session is not None:
            self._session.end()


@pytest.fixture(params=["memory", "sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Yield what opens the store, of each kind in turn."""
    stores: list[Store] = []

    def open_memory(clock: Clock) -> Store:
        if stores:
            kept = stores[0]
            assert isinstance(kept, _Remembered)
            kept.reopen(clock)
            return kept
        stores.append(_Remembered(clock=clock))
        return stores[0]

    def open_sqlite(clock: Clock) -> Store:
        stores.append(SQLiteStore(tmp_path / "nonces.db", clock=clock, timeout=60))
        return stores[-1]

    yield open_memory if request.param == "memory" else open_sqlite
    for store in stores:
        store.close()


@pytest.fixture
def clock() -> StillClock:
    """Return a clock in the test's hands."""
    return StillClock()


@pytest.fixture
def store(opener: Opener, clock: StillClock) -> Store:
    """Return a store whose clock stands still."""
    return opener(clock)


@pytest.fixture
def real(opener: Opener) -> Store:
    """Return a store by the machine's clock."""
    return opener(SYSTEM_CLOCK)
