"""The simulated exchange serves the real python-kraken-sdk, as it is and with every rule enforced."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from kraken.exceptions import (
    KrakenInvalidNonceError,
    KrakenInvalidSignatureError,
    KrakenUnknownAssetError,
    KrakenUnknownOrderError,
)
from kraken.spot import (
    Earn,
    Funding,
    Market,
    SpotAsyncClient,
    SpotClient,
    SpotWSClient,
    Trade,
    User,
)

from persistent_nonce.testing import Credentials, KrakenSimulator
from tests.support import packages
from tests.support.packages import check_calls, result, sdk_client

exchange, account = packages.exchange, packages.account

#: An order as the SDK sends it.
ORDER: Final = {
    "ordertype": "limit",
    "type": "buy",
    "volume": 0.1,
    "price": 37000,
    "pair": "XBTUSD",
}


async def ask(client: Any, method: str, uri: str, **options: Any) -> Any:
    """Ask through the SDK's own way to any method."""
    return await result(client.request(method, uri, **options))


async def close(client: Any) -> None:
    """Close a client of the SDK, of which the one that does not wait has nothing to close."""
    if isinstance(client, SpotAsyncClient):
        await client.close()


def test_sdk(
    exchange: KrakenSimulator, account: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain SDK reads, places, finds and cancels through its clients of one key."""
    # Trade asks a client of its own for the pair, which knows the class's URL alone.
    monkeypatch.setattr(Market, "URL", exchange.url)
    user, trade, funding, earn = (
        sdk_client(kind, exchange, account) for kind in (User, Trade, Funding, Earn)
    )
    placed = trade.create_order(
        ordertype="limit",
        side="buy",
        pair="XBTUSD",
        volume="0.123456789",
        price="37000.04",
        cl_ord_id="mine",
        truncate=True,
    )
    assert placed["descr"] == {"order": "buy 0.12345678 XBTUSD @ limit 37000.0"}
    (txid,) = placed["txid"]
    assert user.get_account_balance()["XXBT"] == "10.0000000000"
    held = user.get_balances()["ZUSD"]["hold_trade"]
    assert float(held) == pytest.approx(0.12345678 * 37000, abs=1e-4)
    assert user.get_trade_balance()["eb"] == "475000.0000"
    assert user.get_open_orders()["open"][txid]["cl_ord_id"] == "mine"
    assert trade.cancel_order(txid=txid) == {"count": 1}
    assert user.get_orders_info(txid=[txid])[txid]["status"] == "canceled"
    with pytest.raises(KrakenUnknownOrderError):
        trade.cancel_order(txid=txid)
    both = [{**ORDER, "price": price} for price in (37000, 37001)]
    batch = trade.create_order_batch(orders=both, pair="XBTUSD")["orders"]
    first = batch[0]["txid"]
    assert trade.cancel_order_batch(orders=[first]) == {"count": 1}
    assert trade.cancel_all_orders() == {"count": 1}
    assert user.get_closed_orders()["count"] == 3
    assert user.get_trades_history() == {"trades": {}, "count": 0}
    assert user.get_ledgers_info() == {"ledger": {}, "count": 0}
    with pytest.deprecated_call():  # as is everything that Funding has
        (method,) = funding.get_deposit_methods(asset="XBT")
    assert method["method"] == "Bitcoin"
    (strategy,) = earn.list_earn_strategies(asset="XBT")["items"]
    assert strategy["can_allocate"]
    check_calls(
        exchange,
        account,
        [
            "AddOrder",
            "Balance",
            "BalanceEx",
            "TradeBalance",
            "OpenOrders",
            "CancelOrder",
            "QueryOrders",
            "CancelOrder",
            "AddOrderBatch",
            "CancelOrderBatch",
            "CancelAll",
            "ClosedOrders",
            "TradesHistory",
            "Ledgers",
            "DepositMethods",
            "Earn/Strategies",
        ],
    )


@pytest.mark.parametrize("kind", [SpotClient, SpotAsyncClient], ids=["sync", "async"])
def test_sdk_requests(
    exchange: KrakenSimulator, account: Credentials, kind: Any
) -> None:
    """The SDK's own way to any method works for a form, for JSON and for a public call."""

    async def main() -> None:
        client = sdk_client(kind, exchange, account)

        async def private(name: str, **options: Any) -> Any:
            return await ask(client, "POST", f"/0/private/{name}", **options)

        try:
            assert (await private("Balance"))["ZUSD"] == "100000.0000"
            (txid,) = (await private("AddOrder", params=dict(ORDER)))["txid"]
            batch = {"orders": [ORDER, ORDER], "pair": "XBTUSD"}
            told = await private("AddOrderBatch", params=batch, do_json=True)
            txids = [txid, *(order["txid"] for order in told["orders"])]
            assert list((await private("OpenOrders"))["open"]) == txids
            assert await private("CancelAll") == {"count": 3}
            assert (await private("Earn/Strategies"))["items"]
            pair = {"pair": "XBTUSD"}
            ticker = await ask(
                client, "GET", "/0/public/Ticker", params=pair, auth=False
            )
            assert list(ticker) == ["XXBTZUSD"]
        finally:
            await close(client)

    asyncio.run(main())
    check_calls(
        exchange,
        account,
        [
            "Balance",
            "AddOrder",
            "AddOrderBatch",
            "OpenOrders",
            "CancelAll",
            "Earn/Strategies",
        ],
    )


def test_sdk_market(exchange: KrakenSimulator) -> None:
    """The SDK's client of the market gets the assets, the pair, the ticker and the status."""
    market = Market(url=exchange.url)
    assert list(market.get_assets()) == ["XXBT", "ZUSD"]
    assert list(market.get_assets(assets=["XBT"])) == ["XXBT"]
    assert market.get_asset_pairs(pair="XBT/USD")["XXBTZUSD"]["pair_decimals"] == 1
    assert market.get_ticker(pair="XBTUSD")["XXBTZUSD"]["o"] == "37500.00000"
    with pytest.raises(KrakenUnknownAssetError, match="Unknown asset pair"):
        market.get_ticker(pair="ETHUSD")
    assert market.get_system_status()["status"] == "online"


def test_sdk_websocket_token(exchange: KrakenSimulator, account: Credentials) -> None:
    """The SDK's WebSocket client gets its token over HTTP."""

    async def main() -> None:
        client = SpotWSClient(
            key=account.key, secret=account.secret, rest_url=exchange.url
        )
        try:
            token = await client.get_ws_token()
            assert token["token"].startswith("simulated-")
            assert token["expires"] == 900
        finally:
            await client.close()

    asyncio.run(main())
    check_calls(exchange, account, ["GetWebSocketsToken"])


@pytest.mark.parametrize("kind", [SpotClient, SpotAsyncClient], ids=["sync", "async"])
def test_sdk_refused(
    exchange: KrakenSimulator, account: Credentials, kind: Any
) -> None:
    """A signature that does not fit and a nonce too small are refused, form or JSON."""
    other = Credentials(account.key, exchange.add_key().secret)

    async def refuse(client: Any, error: type[Exception]) -> None:
        for do_json in (False, True):
            with pytest.raises(error):
                await ask(client, "POST", "/0/private/Balance", do_json=do_json)
        await close(client)

    async def main() -> None:
        await refuse(sdk_client(kind, exchange, other), KrakenInvalidSignatureError)
        await refuse(sdk_client(kind, exchange, account), KrakenInvalidNonceError)

    exchange.raise_floor(account.key, by_seconds=60, unit="ns")
    asyncio.run(main())
    stats = exchange.stats(account.key)
    assert (stats.bad_signature, stats.refused_nonce, stats.accepted) == (2, 2, 0)
