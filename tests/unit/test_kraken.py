"""The facts of the exchange against what its documentation says of them."""

from __future__ import annotations

import dataclasses

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


@pytest.mark.parametrize(
    "entry",
    ["EAPI:Invalid nonce", "eapi:invalid nonce", "EAPI:INVALID NONCE"],
)
def test_invalid_nonce_in_any_case(entry: str) -> None:
    """The refusal is recognised in any case of letters, alone and among others."""
    assert kraken.is_invalid_nonce([entry])
    assert kraken.is_invalid_nonce(["WGeneral:Slow", entry])


@pytest.mark.parametrize(
    "errors",
    [[], ["EAPI:Invalid key"], ["EAPI:Invalid signature"], ["WAPI:Invalid nonce"]],
)
def test_not_an_invalid_nonce(errors: list[str]) -> None:
    """Other refusals of the API, a warning and silence are no invalid nonce."""
    assert not kraken.is_invalid_nonce(errors)


def test_warnings_are_no_errors() -> None:
    """Only an entry that is not a warning makes a reply an error."""
    assert not kraken.is_error([])
    assert not kraken.is_error(["WGeneral:Danger", "WOrder:Slow"])
    assert kraken.is_error(["WGeneral:Danger", "EOrder:Insufficient funds"])
    assert kraken.is_error(["something else"])


@pytest.mark.parametrize(
    ("expected", "entries"),
    [
        ("ok", ["WGeneral:Danger"]),
        ("invalid_nonce", ["EAPI:Invalid nonce"]),
        (
            "error",
            [
                "EAPI:Invalid key",
                "EAPI:Invalid signature",
                "EAPI:Bad request",
                "EAPI:Rate limit exceeded",
                "EAuth:Rate limit exceeded",
                "EGeneral:Too many requests",
                "EGeneral:Permission denied",
                "EGeneral:Unknown method",
                "EGeneral:Invalid arguments:volume",
                "EGeneral:Temporary lockout",
                "EService: Throttled: 1716000000",
                "EService:Throttled",
                "EService:Deadline elapsed",
                "EService:Market in cancel_only mode",
                "EService:Market in post_only mode",
                "EOrder:Rate limit exceeded",
                "EOrder:Insufficient funds",
                "EQuery:Unknown asset pair",
            ],
        ),
        (
            "unknown",
            [
                "EService:Unavailable",
                "EService:Busy",
                "EService:Timeout",
                "EGeneral:Internal error",
                "EGeneral:Internal error:7",
                "EService:NeverHeardOf",
                "ENeverHeardOf:anything",
                "",
            ],
        ),
    ],
)
def test_outcome(expected: str, entries: list[str]) -> None:
    """Each documented error has its meaning, in any case; the others are in doubt."""
    for entry in entries:
        assert (entry, kraken.outcome([entry])) == (entry, expected)
        assert kraken.outcome([entry.upper()]) == expected


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], "ok"),
        (["WGeneral:Danger", "EOrder:Insufficient funds"], "error"),
        (["EOrder:Insufficient funds", "EAPI:Invalid nonce"], "invalid_nonce"),
        (["EAPI:Invalid nonce", "EService:Busy"], "unknown"),
        (["EService:Busy", "EAPI:Invalid nonce", "WGeneral:Danger"], "unknown"),
    ],
)
def test_the_most_doubtful_entry_decides(errors: list[str], expected: str) -> None:
    """Of several entries the one that promises least is believed."""
    assert kraken.outcome(errors) == expected
