"""What the simulated exchange answers, to orders above all."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.testing import (
    DelayedExecution,
)
from tests.support import simulated
from tests.support.simulated import LIMIT, Client, Hands

clock, client = simulated.clock, simulated.client


def test_order_from_placing_to_cancelling(client: Client) -> None:
    """An order is open until it is cancelled, and told in the exchange's shapes."""
    placed = client.ask("AddOrder", **LIMIT, cl_ord_id="mine")["result"]
    assert placed["descr"] == {"order": "buy 1.25 XBTUSD @ limit 37500"}
    (txid,) = placed["txid"]
    told = client.ask("OpenOrders")["result"]["open"][txid]
    assert (told["status"], told["vol"], told["cl_ord_id"]) == ("open", "1.25", "mine")
    assert told["descr"]["type"] == "buy"
    assert client.ask("ClosedOrders")["result"] == {"closed": {}, "count": 0}
    assert client.ask("CancelOrder", txid=txid)["result"] == {"count": 1}
    assert client.ask("OpenOrders")["result"] == {"open": {}}
    closed = client.ask("ClosedOrders")["result"]
    assert closed["count"] == 1
    assert closed["closed"][txid]["status"] == "canceled"
    assert client.error("CancelOrder", txid=txid) == "EOrder:Unknown order"
    json.dumps(closed)


def test_market_order_is_filled_at_once(client: Client) -> None:
    """A market order needs no price and is closed when it is placed."""
    order = {**LIMIT, "ordertype": "market"}
    del order["price"]
    (txid,) = client.ask("AddOrder", **order)["result"]["txid"]
    told = client.ask("QueryOrders", txid=txid)["result"][txid]
    assert (told["status"], told["vol_exec"]) == ("closed", "1.25")


def test_cl_ord_id_is_unique_among_open_orders_only(client: Client) -> None:
    """A client's name can be used again once its order is no longer open."""
    assert client.error("AddOrder", **LIMIT, cl_ord_id="a") == ""
    assert client.error("AddOrder", **LIMIT, cl_ord_id="a").startswith("EOrder:")
    assert Client(client.exchange).error("AddOrder", **LIMIT, cl_ord_id="a") == ""
    assert client.error("CancelOrder", cl_ord_id="a") == ""
    assert client.error("AddOrder", **LIMIT, cl_ord_id="a") == ""
    assert len(client.ask("QueryOrders", cl_ord_id="a")["result"]) == 2


def test_orders_are_found_by_userref_and_cl_ord_id(client: Client) -> None:
    """The questions about orders can be narrowed down to the client's own marks."""
    for mark in ({"userref": "7"}, {"userref": "7"}, {"cl_ord_id": "x"}, {}):
        assert client.error("AddOrder", **LIMIT, **mark) == ""
    assert len(client.ask("OpenOrders", userref="7")["result"]["open"]) == 2
    assert len(client.ask("OpenOrders", cl_ord_id="x")["result"]["open"]) == 1
    assert client.ask("OpenOrders", cl_ord_id="y")["result"] == {"open": {}}
    assert client.error("CancelOrder", txid="None") == "EOrder:Unknown order"
    assert client.ask("CancelOrder", txid="7")["result"] == {"count": 2}
    assert client.ask("ClosedOrders", userref="7")["result"]["count"] == 2
    txids = list(client.ask("OpenOrders")["result"]["open"])
    found = client.ask("QueryOrders", txid=",".join(txids))["result"]
    assert list(found) == txids
    assert len(txids) == 2


def test_closed_orders_come_in_pages(client: Client, clock: Hands) -> None:
    """ClosedOrders tells fifty at a time, the latest first, and how many there are."""
    order = {**LIMIT, "ordertype": "market"}
    for number in range(60):
        clock.forward(1)
        client.ask("AddOrder", **order, cl_ord_id=f"n{number}")
    first = client.ask("ClosedOrders")["result"]
    second = client.ask("ClosedOrders", ofs="50")["result"]
    assert (len(first["closed"]), len(second["closed"])) == (50, 10)
    assert first["count"] == second["count"] == 60
    told = [*first["closed"].values(), *second["closed"].values()]
    names = [order["cl_ord_id"] for order in told]
    assert names == [f"n{number}" for number in reversed(range(60))]


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"ordertype": ""}, "ordertype"),
        ({"ordertype": "lottery"}, "ordertype"),
        ({"type": "hold"}, "type"),
        ({"volume": "0"}, "volume"),
        ({"volume": "NaN"}, "volume"),
        ({"volume": "much"}, "volume"),
        ({"pair": ""}, "pair"),
        ({"price": ""}, "price"),
        ({"price": "-1"}, "price"),
        ({"userref": "x"}, "userref"),
        ({"cl_ord_id": "a" * 19}, "cl_ord_id"),
        ({"cl_ord_id": "a", "userref": "1"}, "cl_ord_id"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": "2023-11-14T22:13:30"}, "deadline"),
    ],
)
def test_wrong_arguments_of_an_order(
    client: Client, changed: dict[str, str], argument: str
) -> None:
    """An order with a wrong argument is refused by the argument's name."""
    error = client.error("AddOrder", **{**LIMIT, **changed})
    assert error == f"EGeneral:Invalid arguments:{argument}"
    assert client.exchange.orders(client.key) == []


@pytest.mark.parametrize(
    "cl_ord_id",
    ["6d1b345e-2821-40e2-ad83-4ecb18a06876", "da8e4ad59b78481c93e589746b0cf91f", "a-1"],
)
def test_forms_of_a_cl_ord_id(client: Client, cl_ord_id: str) -> None:
    """A client's name for an order is a UUID or a short text."""
    assert client.error("AddOrder", **LIMIT, cl_ord_id=cl_ord_id) == ""


def test_validate_places_nothing(client: Client) -> None:
    """An order that is only to be validated is checked, described and forgotten."""
    told = client.ask("AddOrder", **LIMIT, validate="true")["result"]
    assert told == {"descr": {"order": "buy 1.25 XBTUSD @ limit 37500"}}
    assert client.error("AddOrder", validate="true").startswith("EGeneral:Invalid")
    assert client.exchange.orders(client.key) == []


def deadline(client: Client, clock: Hands, seconds: float) -> str:
    """Place an order whose deadline lies so far ahead and return the error."""
    moment = datetime.fromtimestamp(clock.wall() / SECOND + seconds, UTC)
    text = moment.isoformat().replace("+00:00", "Z")
    return client.error("AddOrder", **LIMIT, deadline=text)


def test_deadline_lies_within_its_range(client: Client, clock: Hands) -> None:
    """A deadline is refused unless it lies 2 to 60 seconds ahead."""
    for seconds, good in ((1, False), (2, True), (60, True), (61, False)):
        assert (seconds, deadline(client, clock, seconds) == "") == (seconds, good)


def test_order_delayed_past_its_deadline(client: Client, clock: Hands) -> None:
    """An order whose deadline has passed when its time comes is not executed."""
    client.inject(DelayedExecution(30), times=2)
    deadline(client, clock, 29)
    deadline(client, clock, 31)
    clock.forward(60)
    assert len(client.exchange.orders(client.key)) == 1


def test_deadline_passes_between_arrival_and_execution(
    client: Client, clock: Hands
) -> None:
    """A deadline that passes while the request waits is answered as elapsed."""
    text = datetime.fromtimestamp(clock.wall() // SECOND + 2, UTC).isoformat()
    visit = client.arrive("AddOrder", **LIMIT, deadline=text)
    clock.forward(3)
    reply = client.exchange.execute(visit)
    assert reply["error"] == ["EService:Deadline elapsed"]


def test_the_other_methods_answer(client: Client) -> None:
    """Every method of the list answers with a result."""
    assert client.ask("Balance")["result"]["XXBT"]
    assert client.ask("Ledgers")["result"] == {"ledger": {}, "count": 0}
    assert client.ask("TradesHistory")["result"] == {"trades": {}, "count": 0}
    assert client.ask("GetWebSocketsToken")["result"]["expires"] == 900
    time_told = client.exchange.public("Time")["result"]
    assert time_told == {
        "unixtime": 1_700_000_000,
        "rfc1123": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    status = client.exchange.public("SystemStatus")["result"]
    assert status == {"status": "online", "timestamp": "2023-11-14T22:13:20Z"}
    assert client.exchange.public("Nothing")["error"] == ["EGeneral:Unknown method"]


def test_arrivals_tell_when_and_what(client: Client, clock: Hands) -> None:
    """The record has each request's time, nonce, method and verdict, in order."""
    other = Client(client.exchange)
    client.ask("Balance", 5)
    clock.forward(0.2)
    other.ask("Ledgers", 9)
    clock.forward(0.2)
    client.ask("Balance", 4)
    told = [
        (arrival.at, arrival.key, arrival.nonce, arrival.method, arrival.verdict)
        for arrival in client.exchange.stats(None).arrivals
    ]
    assert told == [
        (0, client.key, 5, "Balance", "accepted"),
        (SECOND // 5, other.key, 9, "Ledgers", "accepted"),
        (SECOND // 5 * 2, client.key, 4, "Balance", "invalid_nonce"),
    ]
    own = client.exchange.stats(client.key).arrivals
    assert [arrival.number for arrival in own] == [0, 2]
