"""Fixtures: a database, a store of it, a gate without an interval, and processes beside the test's own.

A test module has them by giving them its own names, as in `path, store = databases.path, databases.store`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.stores.base import LEASE
from tests.support.clocks import StillClock
from tests.support.processes import GUARD, Children
from tests.support.workers import KEY

__all__ = [
    "children",
    "clock",
    "gate",
    "path",
    "store",
    "store_by_clock",
    "wait_for_leases",
]


def wait_for_leases() -> None:
    """Wait until every block of nonces that was taken before is void: the next nonce is the store's."""
    time.sleep(2 * LEASE / SECOND)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the database is."""
    return tmp_path / "nonces.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """Yield an open store of this process."""
    with SQLiteStore(path, timeout=60) as opened:
        yield opened


@pytest.fixture
def clock() -> StillClock:
    """Return a clock in the test's hands."""
    return StillClock()


@pytest.fixture
def store_by_clock(path: Path, clock: StillClock) -> Iterator[SQLiteStore]:
    """Yield an open store by that clock."""
    with SQLiteStore(path, clock=clock) as opened:
        yield opened


@pytest.fixture
def gate(store: SQLiteStore) -> CallGate:
    """Return a gate without an interval."""
    return CallGate(store, KEY, min_interval=0.0, timeout=GUARD)


@pytest.fixture
def children() -> Iterator[Children]:
    """Yield the child processes of a test, which end with it."""
    with Children() as started:
        yield started
