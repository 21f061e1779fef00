"""What the simulated exchange says of the market, and of what an account owns."""

from __future__ import annotations

import pytest

from tests.support import simulated
from tests.support.simulated import LIMIT, Client

clock, client = simulated.clock, simulated.client


def held(client: Client) -> tuple[str, str]:
    """Return what open orders hold of the quote and of the base."""
    told = client.ask("BalanceEx")["result"]
    return told["ZUSD"]["hold_trade"], told["XXBT"]["hold_trade"]


def test_open_orders_hold_funds(client: Client) -> None:
    """An open order holds what it would cost, under each name of the pair, until it is cancelled."""
    assert held(client) == ("0.0000", "0.0000000000")
    client.ask("AddOrder", **LIMIT)
    client.ask("AddOrder", **{**LIMIT, "pair": "XXBTZUSD", "price": "0.5"})
    assert held(client) == ("46875.6250", "0.0000000000")
    client.ask("AddOrder", **{**LIMIT, "pair": "XBT/USD", "type": "sell"})
    client.ask("AddOrder", **{**LIMIT, "pair": "ETHUSD", "type": "sell"})
    client.ask("AddOrder", **{**LIMIT, "ordertype": "market"})
    assert held(client) == ("46875.6250", "1.2500000000")
    client.ask("CancelAll")
    assert held(client) == ("0.0000", "0.0000000000")


def test_balances_agree(client: Client) -> None:
    """Balance, BalanceEx and TradeBalance tell of the same funds, at the price of Ticker."""
    balance = client.ask("Balance")["result"]
    extended = client.ask("BalanceEx")["result"]
    assert {name: told["balance"] for name, told in extended.items()} == balance
    ticker = client.exchange.public("Ticker")["result"]
    assert isinstance(ticker, dict)
    worth = float(balance["ZUSD"]) + float(balance["XXBT"]) * float(
        ticker["XXBTZUSD"]["c"][0]
    )
    assert float(client.ask("TradeBalance")["result"]["eb"]) == worth


def test_what_is_offered_for_an_asset(client: Client) -> None:
    """There is a way to deposit and a strategy to earn for the base, and none for the quote."""
    for asset, offered in (("XXBT", 1), ("XBT", 1), ("USD", 0)):
        methods = client.ask("DepositMethods", asset=asset)["result"]
        items = client.ask("Earn/Strategies", asset=asset)["result"]["items"]
        assert (len(methods), len(items)) == (offered, offered)


@pytest.mark.parametrize(
    ("method", "asset", "error"),
    [
        ("DepositMethods", "", "EGeneral:Invalid arguments:asset"),
        ("DepositMethods", "ETH", "EQuery:Unknown asset"),
        ("Earn/Strategies", "ETH", "EQuery:Unknown asset"),
        ("TradeBalance", "ETH", "EQuery:Unknown asset"),
        ("TradeBalance", "XBT", "EGeneral:Invalid arguments:asset"),
    ],
)
def test_assets_it_cannot_tell_of(
    client: Client, method: str, asset: str, error: str
) -> None:
    """An asset that is missing, unknown or out of place is refused."""
    assert client.ask(method, asset=asset)["error"] == [error]


@pytest.mark.parametrize(
    ("method", "query", "expected"),
    [
        ("Assets", "", ["XXBT", "ZUSD"]),
        ("Assets", "asset=USD%2CXXBT", ["ZUSD", "XXBT"]),
        ("AssetPairs", "", ["XXBTZUSD"]),
        ("AssetPairs", "pair=XBTUSD&info=info", ["XXBTZUSD"]),
        ("Ticker", "pair=XBT/USD", ["XXBTZUSD"]),
    ],
)
def test_public_queries(
    client: Client, method: str, query: str, expected: list[str]
) -> None:
    """A public call tells of what its query names, or of everything."""
    told = client.exchange.public(method, query=query)["result"]
    assert isinstance(told, dict)
    assert list(told) == expected


@pytest.mark.parametrize(
    ("method", "query", "error"),
    [
        ("Assets", "asset=XBT,ETH", "EQuery:Unknown asset"),
        ("AssetPairs", "pair=ETHUSD", "EQuery:Unknown asset pair"),
        ("Ticker", "pair=XBTUSD,ETHUSD", "EQuery:Unknown asset pair"),
        ("Ticker", "pair=XBTUSD&pair=ETHUSD", "EGeneral:Invalid arguments"),
        ("Ticker", "pair", "EGeneral:Invalid arguments"),
    ],
)
def test_public_queries_refused(
    client: Client, method: str, query: str, error: str
) -> None:
    """A query is refused that names what is unknown, or that can be read in two ways."""
    assert client.exchange.public(method, query=query)["error"] == [error]
