"""The schema of a SQLite store: left whole by a kill at any statement, and refused in a newer version (A38)."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce.errors import StoreVersionError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.outside import execute
from tests.support.processes import Children
from tests.support.workers import KEY

path, clock, store = databases.path, databases.clock, databases.store_by_clock


def test_newer_schema_is_refused(path: Path) -> None:
    """A database of a newer version is not opened, and not changed."""
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
    execute(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="schema 99"):
        SQLiteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE keys SET revision = revision + 1, "check" = 5',
        "ALTER TABLE keys RENAME COLUMN nonce TO mark",
        "ALTER TABLE keys RENAME TO former",
    ],
    ids=["sealed anew", "column renamed", "table renamed"],
)
@pytest.mark.parametrize("key", [KEY, "another key"])
def test_newer_schema_under_an_open_store(
    store: SQLiteStore, path: Path, key: str, statement: str
) -> None:
    """A store that is open while a newer version migrates its database issues nothing more, for any key."""
    NonceProvider(store, KEY).next()
    execute(path, "BEGIN", statement, "PRAGMA user_version = 99", "COMMIT")
    for use in (NonceProvider(store, key).next, NonceProvider(store, key).next):
        with pytest.raises(StoreVersionError, match="schema 99"):
            use()


def test_kill_at_each_statement_of_the_first_opening(tmp_path: Path) -> None:
    """A process killed at any statement of the first opening leaves what the next one opens and uses (I3, A36)."""
    source = (
        "import os, sqlite3, sys\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "import sqlite_utils, sqlite_utils.migrations\n"
        "real = sqlite3.connect\n"
        "def connect(*arguments, **options):\n"
        "    connection = real(*arguments, **options)\n"
        "    def trace(statement):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left == 0:\n"
        "            os.kill(os.getpid(), 9)\n"
        "    connection.set_trace_callback(trace)\n"
        "    return connection\n"
        "sqlite3.connect = connect\n"
        "point = 0\n"
        "while True:\n"
        "    point += 1\n"
        "    os.mkdir(f'{sys.argv[1]}/{point}', 0o700)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        left = point\n"
        "        SQLiteStore(f'{sys.argv[1]}/{point}/n.db')\n"
        "        left = 0\n"  # what measures coverage has a database too
        "        os._exit(0)\n"
        "    if os.waitpid(pid, 0)[1] == 0:\n"
        "        break\n"
        "print(point, flush=True)\n"
    )
    with Children() as children:
        child = children.script(source, tmp_path)
        points = int(child.line())
    assert points > 20
    for point in range(1, points + 1):
        with SQLiteStore(tmp_path / str(point) / "n.db") as store:
            assert NonceProvider(store, KEY).next() > 0
