"""An account leaves a call alone that its process may yet send, and settles it once that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.state import Changed, KeyState, Running
from persistent_nonce.steps import run
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.memory import MemorySession, MemoryStore
from tests.support import accounts
from tests.support.accounts import Exchange, account, put, told
from tests.support.clocks import StillClock
from tests.support.states import KEY

clock, store = accounts.clock, accounts.store
either, exchange = accounts.either, accounts.exchange


def test_a_living_process_s_call_is_left_alone(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """A call whose process lives may be sent yet, however old it is: it was only stopped."""
    other = MemorySession(store)
    put(store, took=None)
    put(store, "b", nonce=6, session=other.name, took=None)
    clock.advance(86_400)
    told(account(store, exchange))
    clock.advance(120)
    assert told(account(store, exchange)) == {"a": "not_executed", "b": "unknown"}
    assert [data[1]["cl_ord_id"] for data in exchange.asked] == ["A1"] * 4
    other.end()
    assert told(account(store, exchange)) == {"b": "unknown"}
    clock.advance(119)
    assert told(account(store, exchange)) == {"b": "unknown"}
    clock.advance(1)
    assert told(account(store, exchange)) == {"b": "not_executed"}


def test_a_living_process_s_order_is_not_even_asked_for(
    store: MemoryStore, exchange: Exchange
) -> None:
    """While the call may still end by itself, an order of it settles nothing."""
    put(store, session=MemorySession(store).name, took=None)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    assert told(account(store, exchange)) == {"a": "unknown"}
    assert exchange.asked == []


def test_a_call_that_its_living_process_saw_end(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """A call whose end is on record cannot be sent any more, so it is settled while its process lives."""
    put(store, session=MemorySession(store).name, took=SECOND)
    clock.advance(121)
    assert told(account(store, exchange)) == {"a": "not_executed"}


@pytest.mark.parametrize("live", [True, False])
def test_calls_of_the_own_process(
    store: MemoryStore, exchange: Exchange, clock: StillClock, live: bool
) -> None:
    """A call of the own process that still goes on is left alone, and a left-over of it is settled."""
    session = store.session()
    if live:
        session.live.add("a")
    put(store, session=session.name, took=None)
    told(account(store, exchange))
    clock.advance(120)
    expected = "unknown" if live else "not_executed"
    assert told(account(store, exchange)) == {"a": expected}


def test_two_minutes_from_when_the_process_was_found_gone(
    either: Store, exchange: Exchange, clock: StillClock
) -> None:
    """However long ago a lost call began, it may have been sent just before: the first look only notes its end."""
    put(either, session=either.session().name, took=None)
    clock.advance(3_600)
    (call,) = run(account(either, exchange).in_doubt())
    assert call.outcome == "unknown"
    assert [c.took for c in either.calls(KEY)] == [3_600 * SECOND]
    clock.advance(119)
    assert told(account(either, exchange)) == {"a": "unknown"}
    clock.advance(1)
    assert told(account(either, exchange)) == {"a": "not_executed"}


@pytest.mark.parametrize("dead", [True, False])
def test_a_running_call_of_a_dead_process_is_in_doubt(
    store: MemoryStore, exchange: Exchange, dead: bool
) -> None:
    """Who asks what is in doubt is told of a call whose process died with it, and not of one that runs."""
    other = MemorySession(store)

    def start(state: KeyState, now: Any) -> Changed:
        running = Running(
            id="lost",
            session=other.name,
            method="AddOrder",
            cost=0,
            nonce=9,
            at=now.wall,
            since=now.mono,
            until=now.mono + 300 * SECOND,
            waited=0,
            reference="cl_ord_id=A1",
        )
        return Changed(state._replace(running=running))

    store.update(KEY, start)
    if dead:
        other.end()
    doubts = run(account(store, exchange).in_doubt())
    assert [(d.id, d.outcome) for d in doubts] == [("lost", "interrupted")] * dead
    assert (store.read(KEY).running is None) == dead
