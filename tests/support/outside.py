"""What tests know of a store from outside: its database's rows, its descriptors, the lead of its ceilings."""

from __future__ import annotations

import gc
import sqlite3
import threading
from pathlib import Path
from typing import Any, Final

from tests.support.processes import GUARD, descriptors

__all__ = ["FIVE_SECONDS", "execute", "settled"]

#: ms between two ceilings: as far as nonces go before the disk is asked again.
FIVE_SECONDS: Final = 5_000


def settled() -> int:
    """Return how many descriptors are open, once stores that were dropped have been closed by their threads."""
    gc.collect()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(GUARD)
    return descriptors()


def execute(path: Path, *statements: str) -> list[Any]:
    """Return the rows of the last of `statements`, carried out by a connection of its own."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found
    finally:
        connection.close()
