"""What commands show: keys and calls to be looked at, looks at their processes, and what a console prints."""

from __future__ import annotations

import io
from typing import Final

from rich.console import Console

from persistent_nonce.clock import SECOND
from persistent_nonce.state import CallRecord, KeyState, Outcome
from tests.support.states import KEY, WALL, fresh

__all__ = ["TICKS", "gone", "printed", "record", "sleeping", "used"]

#: The tests' beginning, in milliseconds.
TICKS: Final = WALL // 1_000_000


def sleeping(session: str) -> str:
    """Stand in for a look at a session whose process lives."""
    return "sleeping"


def gone(session: str) -> str:
    """Stand in for a look at a session whose process is gone."""
    return "gone"


def used(**changes: object) -> KeyState:
    """Return the state of a key whose last nonce was taken at the tests' beginning."""
    state = fresh("ms")._replace(nonce=TICKS, seen=TICKS)
    return state._replace(**changes)  # type: ignore[arg-type]  # named by the test


def record(outcome: Outcome = "ok", *, nonce: int = 7) -> CallRecord:
    """Return the record of a call."""
    return CallRecord(
        id=f"5-1-1-a:{nonce}",
        key=KEY,
        session="5-1-1-a",
        method="Balance",
        cost=1,
        nonce=nonce,
        at=WALL,
        waited=SECOND // 4,
        took=None if outcome == "interrupted" else SECOND // 8,
        outcome=outcome,
        serial=1,
    )


def printed(what: object, width: int = 1000) -> str:
    """Return what a console of this width prints."""
    console = Console(file=io.StringIO(), width=width, markup=True)
    console.print(what)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()
