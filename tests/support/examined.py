"""A healthy database with two keys, and what `doctor` finds wrong with one.

A test module has the fixture below by giving it its own name, as in `database = examined.database`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.commands import doctor

__all__ = ["database", "nowhere", "wrong"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database with the keys `one` and `two`, each of which has issued a nonce."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        for key in ("one", "two"):
            NonceProvider(store, key, label=key).next()
    return path


def nowhere() -> Iterable[Path]:
    """Name no other store."""
    return []


def wrong(path: Path, others: Callable[[], Iterable[Path]] = nowhere) -> list[str]:
    """Return what is wrong with a database, as `about: said -> do`; each says what to do."""
    found = [f for f in doctor.examine(path, others=others) if f.wrong]
    assert all(finding.do for finding in found)
    return [f"{f.about}: {f.said} -> {f.do}" for f in found]
