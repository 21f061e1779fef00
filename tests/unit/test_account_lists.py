"""The lists of orders that an account is told: in pages, with foreign orders, or as no list at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from persistent_nonce.errors import ExchangeError
from persistent_nonce.steps import run
from persistent_nonce.stores.memory import MemoryStore
from tests.support import accounts
from tests.support.accounts import Exchange, account, on_record, put, told
from tests.support.clocks import StillClock

clock, store, exchange = accounts.clock, accounts.store, accounts.exchange


def page(*numbers: int, count: int, make: Callable[[], dict[str, Any]]) -> Any:
    """Return a page of closed orders with these numbers."""
    return {"closed": {f"O{number}": make() for number in numbers}, "count": count}


# --- the lists of orders


def test_all_pages_are_read(store: MemoryStore, exchange: Exchange) -> None:
    """Closed orders come in pages; an order on the last one is found."""
    put(store)
    foreign = {"cl_ord_id": "other"}
    exchange.says(
        ClosedOrders=[
            page(*range(50), count=101, make=lambda: exchange.order(0, **foreign)),
            page(*range(50, 100), count=101, make=lambda: exchange.order(0, **foreign)),
            page(100, count=101, make=lambda: exchange.order(0)),
        ]
    )
    assert told(account(store, exchange)) == {"a": "executed"}
    offsets = [data["ofs"] for method, data in exchange.asked[1:]]
    assert offsets == [0, 50, 100]


def test_pages_that_move(store: MemoryStore, exchange: Exchange) -> None:
    """Orders closed between two pages push the others back by as many: a page of known ones is not the last."""
    put(store)
    exchange.says(
        ClosedOrders=[
            page(*range(50), count=60, make=lambda: exchange.order(0, cl_ord_id="x")),
            page(*range(50), count=110, make=lambda: exchange.order(0, cl_ord_id="x")),
            page(*range(50, 60), count=110, make=lambda: exchange.order(0)),
        ]
    )
    assert told(account(store, exchange)) == {"a": "executed"}


def test_an_empty_page_is_the_last(store: MemoryStore, exchange: Exchange) -> None:
    """A count that no page fills does not make the questions endless, and does not tell that an order is nowhere."""
    put(store)
    empty: dict[str, Any] = {"closed": {}, "count": 7}
    exchange.says(ClosedOrders=empty)
    with pytest.raises(ExchangeError, match="0 of 7 orders"):
        run(account(store, exchange).reconcile())
    assert on_record(store) == {"a": "unknown"}
    assert len(exchange.asked) == 2


def test_an_order_in_both_lists_counts_once(
    store: MemoryStore, exchange: Exchange
) -> None:
    """An order that is closed between the two questions is one order."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6)
    orders = {"O1": exchange.order(0)}
    exchange.says(
        OpenOrders={"open": orders}, ClosedOrders={"closed": orders, "count": 1}
    )
    assert set(told(account(store, exchange)).values()) == {"unknown"}


@pytest.mark.parametrize(
    ("reference", "fields"),
    [
        ("cl_ord_id=A1", {"cl_ord_id": "A2"}),
        ("cl_ord_id=A1", {"cl_ord_id": "a1"}),
        ("cl_ord_id=A1", {"cl_ord_id": None}),
        ("cl_ord_id=None", {"cl_ord_id": None}),
        ("cl_ord_id=a-1-2", {"cl_ord_id": "a-12"}),
        ("userref=7", {"userref": -7}),
        ("userref=7", {"userref": 77}),
        ("userref=7", {"userref": None, "cl_ord_id": "7"}),
    ],
)
def test_orders_of_other_ids_are_ignored(
    store: MemoryStore,
    exchange: Exchange,
    clock: StillClock,
    reference: str,
    fields: dict[str, Any],
) -> None:
    """An exchange that tells more orders than it was asked for settles nothing by them."""
    put(store, reference=reference)
    clock.advance(120)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(120, **fields)}})
    assert told(account(store, exchange)) == {"a": "not_executed"}


@pytest.mark.parametrize(
    ("reference", "fields"),
    [
        ("userref=7", {"userref": 7}),
        ("userref=7", {"userref": "7"}),
        (
            "cl_ord_id=6D1B345E-2821-40E2-AD83-4ECB18A06876",
            {"cl_ord_id": "6d1b345e282140e2ad834ecb18a06876"},
        ),
    ],
)
def test_an_id_in_another_form(
    store: MemoryStore, exchange: Exchange, reference: str, fields: dict[str, Any]
) -> None:
    """A number as text, or a UUID in other letters, is the same id."""
    put(store, reference=reference)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0, **fields)}})
    assert told(account(store, exchange)) == {"a": "executed"}


# --- errors


@pytest.mark.parametrize("method", ["OpenOrders", "ClosedOrders"])
@pytest.mark.parametrize(
    "reply",
    [
        {"error": ["EGeneral:Permission denied"]},
        {"error": ["EService:Unavailable"], "result": {"open": {}, "closed": {}}},
        {"error": ["EAPI:Invalid nonce"]},
        {"error": []},
        {"error": [], "result": None},
        {"error": [], "result": []},
        {"error": [], "result": {"count": 0}},
        {"error": [], "result": {"open": 7, "closed": 7, "count": 0}},
        {"error": "none", "result": {"open": {}, "closed": {}, "count": 0}},
        {"error": [7], "result": {"open": {}, "closed": {}, "count": 0}},
        {"result": {"open": {}, "closed": {}, "count": 0}},
        [],
        None,
    ],
    ids=str,
)
def test_an_exchange_that_does_not_tell(
    store: MemoryStore,
    exchange: Exchange,
    clock: StillClock,
    method: str,
    reply: Any,
) -> None:
    """Whatever is no list of orders is an ExchangeError with a hint, and settles nothing."""
    put(store)
    clock.advance(3_600)
    exchange.replies[method] = [reply]
    with pytest.raises(ExchangeError) as caught:
        run(account(store, exchange).reconcile())
    assert caught.value.hint
    assert on_record(store) == {"a": "unknown"}


@pytest.mark.parametrize("opened", [None, "soon", 1e400])
def test_an_order_without_its_time(
    store: MemoryStore, exchange: Exchange, opened: Any
) -> None:
    """An order of the id whose time cannot be read settles nothing."""
    put(store)
    orders = {"O1": {"cl_ord_id": "A1", "opentm": opened}}
    exchange.says(OpenOrders={"open": orders})
    with pytest.raises(ExchangeError, match="time"):
        run(account(store, exchange).reconcile())
    assert on_record(store) == {"a": "unknown"}


def test_what_was_settled_before_an_error_stays(
    store: MemoryStore, exchange: Exchange
) -> None:
    """An error of the client passes as it is, and a call that was settled before stays settled."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6, reference="cl_ord_id=A2")
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    failure = ConnectionResetError("in between")
    exchange.replies["ClosedOrders"] = [failure]
    with pytest.raises(ConnectionResetError) as caught:
        run(account(store, exchange).reconcile())
    assert caught.value is failure
    assert on_record(store) == {"a": "executed", "b": "unknown"}
