"""An account settles calls in doubt by the orders that the exchange has, and leaves the others in doubt."""

from __future__ import annotations

from typing import Any

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.steps import run
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.memory import MemoryStore
from tests.support import accounts
from tests.support.accounts import Exchange, account, on_record, put, told
from tests.support.clocks import StillClock
from tests.support.states import KEY

clock, store = accounts.clock, accounts.store
either, exchange = accounts.either, accounts.exchange


# --- executed, not executed, or neither


def test_no_doubt_no_question(either: Store, exchange: Exchange) -> None:
    """Where nothing is in doubt, the exchange is not asked."""
    put(either, "ok", outcome="ok", serial=1)
    assert run(account(either, exchange).in_doubt()) == []
    assert run(account(either, exchange).reconcile()) == []
    assert exchange.asked == []


@pytest.mark.parametrize("where", ["open", "closed"])
def test_an_order_that_is_there(either: Store, exchange: Exchange, where: str) -> None:
    """An open or a closed order with the id of the call settles it as executed, for good, and nothing is sent again."""
    put(either)
    orders = {"O1": exchange.order(0)}
    if where == "open":
        exchange.says(OpenOrders={"open": orders})
    else:
        exchange.says(ClosedOrders={"closed": orders, "count": 1})
    assert told(account(either, exchange)) == {"a": "executed"}
    assert on_record(either) == {"a": "executed"}
    asked = ["OpenOrders"] if where == "open" else ["OpenOrders", "ClosedOrders"]
    assert [method for method, _ in exchange.asked] == asked
    assert run(account(either, exchange).in_doubt()) == []
    (call,) = either.calls(KEY)
    assert (call.serial, either.read(KEY).settled) == (1, 1)


def test_an_order_that_is_not_there(
    either: Store, exchange: Exchange, clock: StillClock
) -> None:
    """Without an order, the call is settled two minutes after its end, and told as it is until then."""
    put(either, took=60 * SECOND)
    for seconds, outcome in ((60, "unknown"), (119, "unknown"), (1, "not_executed")):
        clock.advance(seconds)
        assert told(account(either, exchange)) == {"a": outcome}
        assert on_record(either) == {"a": outcome}


def test_in_doubt_is_told_oldest_first(either: Store, exchange: Exchange) -> None:
    """Calls in doubt are told in the order of their nonces, without a question."""
    put(either, "b", nonce=6, reference="userref=-7")
    put(either, "a", nonce=5)
    first, second = run(account(either, exchange).in_doubt())
    assert (first.id, first.cl_ord_id, first.userref) == ("a", "A1", None)
    assert (second.id, second.cl_ord_id, second.userref) == ("b", None, -7)
    assert exchange.asked == []


@pytest.mark.parametrize("reference", ["cl_ord_id=A1", "userref=-7"])
def test_what_is_asked(store: MemoryStore, exchange: Exchange, reference: str) -> None:
    """Both lists are asked for the id, the closed ones from ten seconds before the call by the exchange's clock."""
    put(store, reference=reference)
    run(account(store, exchange).reconcile())
    name, _, value = reference.partition("=")
    start = 1_700_000_000 + 30 - 10
    assert exchange.asked == [
        ("OpenOrders", {name: value}),
        ("ClosedOrders", {name: value, "start": start, "ofs": 0}),
    ]


def test_a_slow_answer_hides_no_order(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """However long the exchange takes to tell its time, an order opened at the call's start is seen."""
    put(store)
    clock.advance(600)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(600)}})
    exchange.thinks = 60.0
    assert told(account(store, exchange)) == {"a": "executed"}


def test_an_order_of_before_is_not_ours(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """An order with the same id from before the call does not make it executed."""
    exchange.says(OpenOrders={"open": {"O1": exchange.order(11)}})
    put(store)
    assert told(account(store, exchange)) == {"a": "unknown"}
    clock.advance(120)
    assert told(account(store, exchange)) == {"a": "not_executed"}


def test_a_clock_set_back_over_a_reboot_hides_no_order(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """An order of a call that was dated an hour ahead, before a reboot put the clock right, is not missed."""
    clock.now += 3_600 * SECOND
    put(store)
    clock.now -= 3_600 * SECOND
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    clock.advance(5_400)
    clock.up, clock.name = 600 * SECOND, "second boot"
    assert told(account(store, exchange)) == {"a": "executed"}


def test_two_calls_of_one_id(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """One order for two calls leaves both in doubt, two settle both, none says that neither was executed."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6)
    one, two = {"O1": exchange.order(0)}, {"O2": exchange.order(0)}
    exchange.says(OpenOrders={"open": one})
    assert told(account(store, exchange)) == {"a": "unknown", "b": "unknown"}
    clock.advance(3_600)
    assert told(account(store, exchange)) == {"a": "unknown", "b": "unknown"}
    exchange.says(OpenOrders={"open": one | two})
    assert told(account(store, exchange)) == {"a": "executed", "b": "executed"}


def test_a_later_call_of_the_same_id_that_was_executed(
    store: MemoryStore, exchange: Exchange
) -> None:
    """The order of a later call with the same id is not taken for that of the one in doubt."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6, outcome="ok", serial=1)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    assert told(account(store, exchange)) == {"a": "unknown"}


def test_forgotten_calls_may_have_placed_it(
    store: MemoryStore, exchange: Exchange
) -> None:
    """With the records of later calls dropped, an order of a userref that many calls have settles nothing."""
    put(store, "a", reference="userref=7")
    put(store, "later", nonce=6, method="Balance", outcome="ok", serial=5_000)
    orders = {"O1": exchange.order(0, userref=7)}
    exchange.says(OpenOrders={"open": orders})
    assert told(account(store, exchange)) == {"a": "unknown"}


# --- what cannot be, or need not be, looked up


@pytest.mark.parametrize(
    "fields",
    [
        {"reference": ""},
        {"method": "Withdraw"},
        {"method": "EditOrder"},
        {"method": "CancelOrder"},
    ],
    ids=str,
)
def test_a_call_that_cannot_be_looked_up_stays(
    store: MemoryStore, exchange: Exchange, clock: StillClock, fields: dict[str, Any]
) -> None:
    """A call without a reference, or that placed no order, stays in doubt for ever, unasked."""
    put(store, **fields)
    clock.advance(86_400)
    assert told(account(store, exchange)) == {"a": "unknown"}
    assert exchange.asked == []


def test_a_call_that_reads_is_settled(either: Store, exchange: Exchange) -> None:
    """A call that reads changed nothing, so it is settled at once and unasked."""
    put(either, method="Balance", reference="", outcome="interrupted", took=None)
    assert told(account(either, exchange)) == {"a": "not_executed"}
    assert on_record(either) == {"a": "not_executed"}
    assert exchange.asked == []
