"""Fixtures: an exchange that answers as scripted, and stores with calls in doubt for an account of it.

A test module has them by giving them its own names, as in `clock, exchange = accounts.clock, accounts.exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce.adapters.account import Account, Answer
from persistent_nonce.clock import SECOND
from persistent_nonce.state import CallRecord, Changed
from persistent_nonce.steps import run
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock
from tests.support.states import KEY, recorded

__all__ = [
    "Exchange",
    "account",
    "clock",
    "either",
    "exchange",
    "on_record",
    "put",
    "store",
    "told",
]

#: A process that has ended.
GONE: Final = "0-0-0-deadbeef"


NONE_OPEN: Final[dict[str, Any]] = {"open": {}}


NONE_CLOSED: Final[dict[str, Any]] = {"closed": {}, "count": 0}


class Exchange:
    """Answers each method as scripted, the last answer again and again; notes what it was asked."""

    def __init__(self, clock: StillClock) -> None:
        self.clock = clock
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.replies: dict[str, list[Any]] = {}
        self.ahead = 30  # seconds of its clock before ours
        self.thinks = 0.0  # seconds, before it looks at its clock and after
        self.nonce = 7
        self.says(OpenOrders=NONE_OPEN, ClosedOrders=NONE_CLOSED)

    def says(self, **results: Any) -> None:
        """Answer with these results; several of a method are given as a list."""
        for method, result in results.items():
            several = result if isinstance(result, list) else [result]
            self.replies[method] = [{"error": [], "result": r} for r in several]

    async def ask(self, method: str, data: dict[str, Any]) -> Answer:
        """Answer a question."""
        self.asked.append((method, dict(data)))
        scripted = self.replies[method]
        reply = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        if isinstance(reply, BaseException):
            raise reply
        return Answer(reply() if callable(reply) else reply, self.nonce)

    async def time(self) -> float:
        """Return this clock's time, and take a while for it."""
        self.clock.advance(self.thinks)
        now = self.clock.wall() / SECOND + self.ahead
        self.clock.advance(self.thinks)
        return now

    def order(self, seconds_ago: float, **fields: Any) -> dict[str, Any]:
        """Return an order opened so long ago."""
        opened = self.clock.wall() / SECOND + self.ahead - seconds_ago
        return {"opentm": opened, "cl_ord_id": "A1", "userref": None} | fields


@pytest.fixture
def clock() -> StillClock:
    """Return a clock in the test's hands."""
    return StillClock()


@pytest.fixture
def store(clock: StillClock) -> MemoryStore:
    """Return a store that knows of a process that has ended."""
    store = MemoryStore(clock=clock)
    store.ended.add(GONE)
    return store


@pytest.fixture(params=["memory", "sqlite"])
def either(
    request: pytest.FixtureRequest, clock: StillClock, tmp_path: Path
) -> Iterator[Store]:
    """Yield a store of each kind."""
    store: Store = MemoryStore(clock=clock)
    if request.param == "sqlite":
        store = SQLiteStore(tmp_path / "nonces.db", clock=clock)
    yield store
    store.close()


@pytest.fixture
def exchange(clock: StillClock) -> Exchange:
    """Return an exchange that has no orders."""
    return Exchange(clock)


def account(store: Store, exchange: Exchange) -> Account:
    """Return the account of the tests' key."""
    return Account(store, KEY, exchange.ask, exchange.time)


def put(store: Store, id: str = "a", **fields: Any) -> CallRecord:
    """Have a call on record that began now; fields of its record go as they are."""
    made = recorded(id, now=store.now())._replace(**{"session": GONE} | fields)
    store.update(KEY, lambda state, now: Changed(state, (made,)))
    return made


def on_record(store: Store) -> dict[str, str]:
    """Return how the calls of the key ended, by their ids."""
    return {call.id: call.outcome for call in store.calls(KEY, 2_000)}


def told(account: Account) -> dict[str, str]:
    """Reconcile, and return what was told of each call."""
    return {call.id: call.outcome for call in run(account.reconcile())}
