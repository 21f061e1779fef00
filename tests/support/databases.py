"""Fixtures: a database, a store of it, and processes beside the test's own.

A test module has them by giving them its own names, as in `path, store = databases.path, databases.store`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from persistent_nonce import SQLiteStore
from tests.support.processes import Children

__all__ = ["children", "path", "store"]


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
def children() -> Iterator[Children]:
    """Yield the child processes of a test, which end with it."""
    with Children() as started:
        yield started
