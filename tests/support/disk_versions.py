"""A newer version of the library, as far as its schema goes; started by `tests.support.processes`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.stores import rows, schema
from persistent_nonce.stores.lock import StoreLock
from persistent_nonce.stores.place import open_beside

__all__ = ["migrate", "use_newer"]


def migrate(path: str) -> None:
    """Bring a database to the next version of the schema, under the store's lock: each row is sealed anew."""
    lock = StoreLock(open_beside(Path(path), ".lock", shared=False), "the lock", 60.0)
    lock.hold(lambda: _migrate(path))


def _migrate(path: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute(rows.select_rows).fetchall()
        states = [rows.decode(row) for row in found]
        connection.execute("DELETE FROM keys")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(schema, "SCHEMA", schema.SCHEMA + 1)
            for state in states:
                rows.write_row(connection.execute, (), state)
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA + 1}")
        connection.execute("COMMIT")


def use_newer(path: str, key: str) -> int:
    """Take a nonce with the next version."""
    schema.SCHEMA += 1  # type: ignore[misc]  # what the next version says of itself
    with SQLiteStore(path) as store:
        return NonceProvider(store, key).next()
