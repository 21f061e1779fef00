"""How the simulated exchange places and cancels several orders in one call."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import simulated
from tests.support.simulated import LIMIT, Client

clock, client = simulated.clock, simulated.client


def place(client: Client, *orders: object, **fields: str) -> Any:
    """Return the reply to a batch of orders of one pair."""
    fields = {"pair": "XBTUSD", **fields}
    return client.ask("AddOrderBatch", orders=json.dumps(orders), **fields)


def states(client: Client) -> list[str]:
    """Return how each order stands, the first one first."""
    return [order.status for order in client.exchange.orders(client.key)]


def test_batch_places_in_its_order(client: Client) -> None:
    """A batch places its orders in their order, each with a number as it was written."""
    told = place(client, {**LIMIT, "volume": 2, "price": 1.10}, LIMIT)["result"]
    placed = client.exchange.orders(client.key)
    assert [order["txid"] for order in told["orders"]] == [o.txid for o in placed]
    assert [(o.volume, o.price) for o in placed] == [("2", "1.1"), ("1.25", "37500")]
    assert told["orders"][0]["descr"] == {"order": placed[0].describe()}


def test_batch_that_is_only_checked(client: Client) -> None:
    """With `validate` a batch is described, and places nothing."""
    told = place(client, LIMIT, LIMIT, validate="true")["result"]["orders"]
    assert [list(order) for order in told] == [["descr"], ["descr"]]
    assert states(client) == []


@pytest.mark.parametrize(
    ("orders", "error"),
    [
        ([LIMIT], "EGeneral:Invalid arguments:orders"),
        ([LIMIT] * 16, "EGeneral:Invalid arguments:orders"),
        ([LIMIT, "order"], "EGeneral:Invalid arguments:orders"),
        ([LIMIT, {**LIMIT, "volume": "0"}], "EGeneral:Invalid arguments:volume"),
        ([LIMIT, {**LIMIT, "userref": True}], "EGeneral:Invalid arguments:userref"),
        (
            [LIMIT, {**LIMIT, "cl_ord_id": "\ud800"}],
            "EGeneral:Invalid arguments:orders",
        ),
        ([{**LIMIT, "cl_ord_id": "a"}] * 2, "EOrder:Duplicate cl_ord_id"),
    ],
)
def test_batch_is_refused_as_a_whole(
    client: Client, orders: list[object], error: str
) -> None:
    """A batch with one bad order, or of a size that is not taken, places none of them."""
    assert place(client, *orders)["error"] == [error]
    assert states(client) == []


@pytest.mark.parametrize("orders", ["", "{}", "[1", '[{"a": 1, "a": 2}]'])
def test_batch_that_is_no_list(client: Client, orders: str) -> None:
    """Orders that are no list in JSON are refused, to place as to cancel."""
    for method in ("AddOrderBatch", "CancelOrderBatch"):
        told = client.ask(method, orders=orders, pair="XBTUSD")
        assert told["error"] == ["EGeneral:Invalid arguments:orders"]


def test_batch_cancels_by_every_name(client: Client) -> None:
    """A batch cancels by txid, userref and cl_ord_id, and leaves every other order open."""
    told = place(
        client,
        LIMIT,
        {**LIMIT, "userref": 7},
        {**LIMIT, "cl_ord_id": "mine"},
        {**LIMIT, "cl_ord_id": "7"},
        LIMIT,
    )["result"]["orders"]
    names = json.dumps([told[0]["txid"], 7, "unknown"])
    hit = client.ask("CancelOrderBatch", orders=names, cl_ord_ids='["mine"]')
    assert hit["result"] == {"count": 3}
    assert states(client) == ["canceled"] * 3 + ["open"] * 2


@pytest.mark.parametrize(
    ("orders", "error"),
    [
        (["unknown"], "EOrder:Unknown order"),
        ([""], "EOrder:Unknown order"),
        ([], "EGeneral:Invalid arguments:orders"),
        (["unknown"] * 51, "EGeneral:Invalid arguments:orders"),
        ([["unknown"]], "EGeneral:Invalid arguments:orders"),
    ],
)
def test_batch_that_cancels_nothing(
    client: Client, orders: list[object], error: str
) -> None:
    """A batch that names no open order, none at all or too many cancels nothing."""
    client.ask("AddOrder", **LIMIT)
    told = client.ask("CancelOrderBatch", orders=json.dumps(orders))
    assert told["error"] == [error]
    assert states(client) == ["open"]


def test_cancel_all(client: Client) -> None:
    """CancelAll cancels every open order of the key, and finds none the second time."""
    other = Client(client.exchange)
    for owner in (client, client, other):
        owner.ask("AddOrder", **LIMIT)
    assert client.ask("CancelAll")["result"] == {"count": 2}
    assert client.ask("CancelAll")["result"] == {"count": 0}
    assert (states(client), states(other)) == (["canceled"] * 2, ["open"])
