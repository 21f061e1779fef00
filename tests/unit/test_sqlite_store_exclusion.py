"""Several stores on one database of SQLite, and a program that writes without their lock."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import Now
from persistent_nonce.errors import StoreTimeoutError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.workers import KEY

path, clock, store = databases.path, databases.clock, databases.store_by_clock


def take(state: KeyState, now: Now) -> Changed:
    """Take one nonce."""
    return Changed(nonces.issue(state, now))


def test_two_stores_of_one_process_exclude_each_other(
    store: SQLiteStore, path: Path
) -> None:
    """Two stores on one database in one process are as apart as two processes: one transaction at a time (I1)."""
    provider = NonceProvider(store, KEY)
    with SQLiteStore(path, clock=StillClock(), timeout=0.01) as other:

        def change(state: KeyState, now: Now) -> Changed:
            with pytest.raises(StoreTimeoutError):
                NonceProvider(other, KEY).next()
            return take(state, now)

        first = store.update(provider.key, change).nonce
        drawn = [first, NonceProvider(other, KEY).next(), provider.next()]
        drawn.append(NonceProvider(other, KEY).next())
        assert drawn == list(range(first, first + 4))


def test_closing_one_of_two_stores(store: SQLiteStore, path: Path) -> None:
    """Closing one of two stores on a database leaves the other one its locks and its files."""
    provider = NonceProvider(store, KEY)
    with SQLiteStore(path, clock=StillClock()) as other:
        NonceProvider(other, KEY).next()
    last = provider.next()
    assert provider.next() == last + 1 == provider.last


def test_foreign_writer_is_waited_for_only_briefly(
    store: SQLiteStore, path: Path
) -> None:
    """A program that writes without our lock makes an error that names it, and nothing is issued."""
    provider = NonceProvider(store, KEY)
    last = provider.next()
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreTimeoutError, match="another program holds"):
        provider.next()
    shell.execute("ROLLBACK")
    shell.close()
    assert provider.next() == last + 1
