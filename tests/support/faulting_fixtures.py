"""A database, a store, a gate without an interval and child processes, for the tests of faults.

A test module has them by giving them its own names, as in `path = faulting_fixtures.path`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from persistent_nonce import CallGate, SQLiteStore
from tests.support.callers import GUARD
from tests.support.processes import Children
from tests.support.workers import KEY

__all__ = ["children", "gate", "path", "store"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database."""
    return tmp_path / "nonces.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    """Yield an open store."""
    with SQLiteStore(path, timeout=60) as opened:
        yield opened


@pytest.fixture
def gate(store: SQLiteStore) -> CallGate:
    """Return a gate without an interval."""
    return CallGate(store, KEY, min_interval=0.0, timeout=GUARD)


@pytest.fixture
def children() -> Iterator[Children]:
    """Yield child processes, which end with the test."""
    with Children() as started:
        yield started
