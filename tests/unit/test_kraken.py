"""The facts of the exchange against what its documentation says of them."""

from __future__ import annotations

import dataclasses
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest

from persistent_nonce import kraken
from persistent_nonce.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "maximum", "decay"),
    [("starter", 15, 0.33), ("intermediate", 20, 0.5), ("pro", 20, 1.0)],
)
def test_tier(name: str, maximum: int, decay: float) -> None:
    """Each tier has the documented maximum and decay."""
    assert kraken.TIERS[name] == kraken.Tier(maximum, decay)


@pytest.mark.parametrize("tier", list(kraken.TIERS))
def test_rate_of_a_tier(tier: str) -> None:
    """A tier's rate drains as its counter decays, and stays one below its maximum."""
    rate, facts = kraken.rate(tier), kraken.TIERS[tier]
    assert rate.every == pytest.approx(1 / facts.decay)
    assert rate.burst == facts.maximum - 1


def test_rate_of_no_tier() -> None:
    """A tier that there is not has no rate."""
    with pytest.raises(ConfigurationError):
        kraken.rate("free")


def test_tiers_are_complete_and_cannot_be_changed() -> None:
    """There are three tiers, and neither the table nor an entry can be altered."""
    assert set(kraken.TIERS) == {"starter", "intermediate", "pro"}
    with pytest.raises(TypeError):
        kraken.TIERS["free"] = kraken.Tier(99, 9.0)  # type: ignore[index]  # the mistake under test
    with pytest.raises(dataclasses.FrozenInstanceError):
        kraken.TIERS["pro"].maximum = 99  # type: ignore[misc]  # the mistake under test


@pytest.mark.parametrize(
    ("cost", "methods"),
    [
        (2, "Ledgers QueryLedgers TradesHistory"),
        (0, "AddOrder AmendOrder EditOrder CancelOrder AddOrderBatch CancelOrderBatch"),
        (1, "Balance OpenOrders CancelAll CancelAllOrdersAfter"),
        (1, "GetWebSocketsToken GetApiKeyInfo NeverHeardOf"),
    ],
)
def test_cost(cost: int, methods: str) -> None:
    """History costs 2, orders cost nothing, everything else costs 1."""
    assert {kraken.cost(method) for method in methods.split()} == {cost}


@pytest.mark.parametrize(
    ("priority", "methods"),
    [
        (
            kraken.CANCEL,
            "CancelOrder CancelOrderBatch CancelAll CancelAllOrdersAfter",
        ),
        (kraken.PLACE, "AddOrder AddOrderBatch AmendOrder EditOrder"),
        (kraken.READ, "Balance QueryOrders Withdraw WithdrawCancel NeverHeardOf"),
    ],
)
def test_priority(priority: int, methods: str) -> None:
    """Cancelling and placing have lanes of their own; nothing else has."""
    assert {kraken.priority(method) for method in methods.split()} == {priority}


def test_cancelling_goes_first() -> None:
    """A cancellation goes before a new order, and that before a question."""
    assert kraken.CANCEL > kraken.PLACE > kraken.READ


@pytest.mark.parametrize(
    "method",
    [
        "AddOrder",
        "AddOrderBatch",
        "AmendOrder",
        "EditOrder",
        "CancelOrder",
        "CancelOrderBatch",
        "CancelAll",
        "CancelAllOrdersAfter",
        "Withdraw",
        "WithdrawCancel",
        "WalletTransfer",
        "AccountTransfer",
        "CreateSubaccount",
        "DepositAddresses",
        "AddExport",
        "RemoveExport",
        "Earn/Allocate",
        "Earn/Deallocate",
        "Stake",
        "Unstake",
        "NeverHeardOf",
        "balance",
    ],
)
def test_changing_methods(method: str) -> None:
    """What moves orders, money or settings changes something, as may the unknown."""
    assert kraken.changes(method)


@pytest.mark.parametrize(
    "method",
    [
        "Balance",
        "BalanceEx",
        "TradeBalance",
        "OpenOrders",
        "ClosedOrders",
        "QueryOrders",
        "TradesHistory",
        "QueryTrades",
        "OpenPositions",
        "Ledgers",
        "QueryLedgers",
        "TradeVolume",
        "WithdrawStatus",
        "GetApiKeyInfo",
        "GetWebSocketsToken",
        "Earn/Strategies",
        "Earn/AllocateStatus",
    ],
)
def test_reading_methods(method: str) -> None:
    """A question leaves the exchange as it is."""
    assert not kraken.changes(method)


# --- headroom


@pytest.mark.parametrize("tier", list(kraken.TIERS))
def test_headroom(tier: str) -> None:
    """More headroom leaves as much less to spend at once, down to the dearest call, and drains as before."""
    maximum = kraken.TIERS[tier].maximum
    for headroom in (0, 1, 5, maximum - 2):
        rate = kraken.rate(tier, headroom)
        assert rate.burst == maximum - headroom
        assert (rate.every, rate.tier) == (1 / kraken.TIERS[tier].decay, tier)
    assert kraken.rate(tier, maximum - 2).burst == kraken.cost("Ledgers")


@pytest.mark.parametrize("headroom", [-1, 14, 1.5, True, "1", None], ids=repr)
def test_unusable_headroom(headroom: Any) -> None:
    """No room for the dearest call, or what is no whole number, is refused."""
    with pytest.raises(ConfigurationError, match="headroom"):
        kraken.rate("starter", headroom)


# --- the caller's own ids


class Named(str, Enum):  # noqa: UP042 - StrEnum is told as it is sent
    """Ids as some programs keep them: `str()` of one is not what is sent."""

    GRID = "A1"


class Numbered(IntEnum):
    """The same for numbers."""

    GRID = 7


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, ""),
        ({"pair": "XBTUSD"}, ""),
        ({"cl_ord_id": "A1"}, "cl_ord_id=A1"),
        ({"cl_ord_id": "x" * 36}, f"cl_ord_id={'x' * 36}"),
        ({"cl_ord_id": UUID(int=7)}, f"cl_ord_id={UUID(int=7)}"),
        ({"cl_ord_id": 12}, "cl_ord_id=12"),
        ({"cl_ord_id": "a=b/c"}, "cl_ord_id=a=b/c"),
        ({"userref": 7}, "userref=7"),
        ({"userref": -7}, "userref=-7"),
        ({"userref": "7"}, "userref=7"),
        ({"cl_ord_id": "A1", "userref": 7}, "cl_ord_id=A1"),
        ({"cl_ord_id": "", "userref": 7}, "userref=7"),
    ],
    ids=str,
)
def test_reference(data: dict[str, Any], expected: str) -> None:
    """The id of an order is its client order id, or else its number."""
    assert kraken.reference("AddOrder", data) == expected


@pytest.mark.parametrize(
    "data",
    [
        {"cl_ord_id": "x" * 37},
        {"cl_ord_id": "a b"},
        {"cl_ord_id": "a\n"},
        {"cl_ord_id": "é"},
        {"cl_ord_id": None},
        {"userref": "x"},
        {"userref": "+7"},
        {"userref": " 7"},
        {"userref": "\u0667"},
        {"userref": 10**10},
        {"userref": 7.0},
        {"userref": True},
        {"userref": None},
    ],
    ids=repr,
)
def test_no_reference(data: dict[str, Any]) -> None:
    """What the exchange does not take as an id is not looked for."""
    assert kraken.reference("AddOrder", data) == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"userref": "007"}, "userref=7"),
        ({"userref": "-07"}, "userref=-7"),
        ({"userref": Numbered.GRID}, "userref=7"),
        ({"cl_ord_id": Named.GRID}, "cl_ord_id=A1"),
        ({"cl_ord_id": b"A1"}, ""),
        ({"cl_ord_id": ["A1"]}, ""),
        ({"cl_ord_id": ("A1",)}, ""),
        ({"cl_ord_id": {"A1": 1}}, ""),
        ({"cl_ord_id": b"A1", "userref": 7}, "userref=7"),
    ],
    ids=str,
)
def test_a_reference_is_what_the_exchange_will_tell(
    data: dict[str, Any], expected: str
) -> None:
    """An id is kept as it is sent and told, or not at all: one kept otherwise would be looked for in vain."""
    assert kraken.reference("AddOrder", data) == expected


@pytest.mark.parametrize("zero", [0, "0", "-0", "000"], ids=repr)
def test_zero_is_no_reference(zero: Any) -> None:
    """Orders that were given no number have 0."""
    assert kraken.reference("AddOrder", {"userref": zero}) == ""


@pytest.mark.parametrize(
    ("validate", "only"),
    [
        (True, True),
        ("true", True),
        ("TRUE", True),
        (1, True),
        ("1", True),
        ("yes", True),
        (False, False),
        ("false", False),
        ("False", False),
        (0, False),
        ("0", False),
        (None, False),
        ("", False),
    ],
    ids=repr,
)
def test_an_order_that_is_only_checked(validate: Any, only: bool) -> None:
    """What places nothing has no order to be looked up."""
    data = {"userref": 7, "validate": validate}
    assert kraken.reference("AddOrder", data) == ("" if only else "userref=7")


def test_who_only_reads_has_no_reference() -> None:
    """The id that a question names is not one that it places; any other method may place it."""
    assert kraken.reference("OpenOrders", {"userref": 7}) == ""
    assert kraken.reference("QueryOrders", {"cl_ord_id": "A1"}) == ""
    assert kraken.reference("NeverHeardOf", {"userref": 7}) == "userref=7"
