"""The simulated exchange serves the real ccxt, as it is and with every rule enforced."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest
from ccxt.async_support.kraken import kraken as async_kraken
from ccxt.base.errors import BaseError, OrderNotFound
from ccxt.kraken import kraken

from persistent_nonce.testing import Credentials, KrakenSimulator
from tests.support import packages
from tests.support.packages import ccxt_client, check_calls, result

exchange, account = packages.exchange, packages.account

SYMBOL: Final = "BTC/USD"


@pytest.mark.parametrize("kind", [kraken, async_kraken], ids=["sync", "async"])
def test_ccxt(exchange: KrakenSimulator, account: Credentials, kind: Any) -> None:
    """Plain ccxt reads, places, finds and cancels, and gets everything in its own form."""

    async def trade(client: Any) -> None:
        placed = await result(
            client.create_order(
                SYMBOL, "limit", "buy", 0.123456789, 37000.04, {"clientOrderId": "mine"}
            )
        )
        assert (placed["symbol"], placed["side"]) == (SYMBOL, "buy")
        # Cut to the decimals of the pair.
        assert (placed["amount"], placed["price"]) == (0.12345678, 37000.0)
        balance = await result(client.fetch_balance())
        assert balance["BTC"] == {"free": 10.0, "used": 0.0, "total": 10.0}
        assert balance["USD"]["used"] == pytest.approx(0.12345678 * 37000, abs=1e-4)
        (found,) = await result(client.fetch_open_orders(SYMBOL))
        assert (found["id"], found["clientOrderId"]) == (placed["id"], "mine")
        assert (found["status"], found["remaining"]) == ("open", 0.12345678)
        await result(client.cancel_order(placed["id"]))
        told = await result(client.fetch_order(placed["id"]))
        assert (told["status"], told["filled"]) == ("canceled", 0.0)
        with pytest.raises(OrderNotFound):
            await result(client.cancel_order(placed["id"]))
        await result(client.create_order(SYMBOL, "limit", "sell", 1, 40000))
        (cancelled,) = await result(client.cancel_all_orders())
        assert cancelled["info"]["result"] == {"count": 1}
        closed = await result(client.fetch_closed_orders(SYMBOL))
        assert [order["status"] for order in closed] == ["canceled", "canceled"]
        assert await result(client.fetch_my_trades(SYMBOL)) == []
        assert await result(client.fetch_ledger()) == []
        methods = await result(client.fetch_deposit_methods("BTC"))
        assert [method["method"] for method in methods] == ["Bitcoin"]

    async def main() -> None:
        client = ccxt_client(kind, exchange, account)
        try:
            await trade(client)
        finally:
            await result(client.close())

    asyncio.run(main())
    check_calls(
        exchange,
        account,
        [
            "AddOrder",
            "BalanceEx",
            "OpenOrders",
            "CancelOrder",
            "QueryOrders",
            "CancelOrder",
            "AddOrder",
            "CancelAll",
            "ClosedOrders",
            "TradesHistory",
            "Ledgers",
            "DepositMethods",
        ],
    )


@pytest.mark.parametrize("kind", [kraken, async_kraken], ids=["sync", "async"])
def test_ccxt_batches(
    exchange: KrakenSimulator, account: Credentials, kind: Any
) -> None:
    """Plain ccxt places and cancels several orders at once, in JSON that it signed."""
    orders = [
        {"symbol": SYMBOL, "type": "limit", "side": "buy", "amount": 0.1, "price": p}
        for p in (37000, 37001, 37002)
    ]

    async def main() -> None:
        client = ccxt_client(kind, exchange, account)
        try:
            placed = await result(client.create_orders(orders))
            assert [order["price"] for order in placed] == [37000, 37001, 37002]
            await result(client.cancel_orders([order["id"] for order in placed[:2]]))
        finally:
            await result(client.close())

    asyncio.run(main())
    check_calls(exchange, account, ["AddOrderBatch", "CancelOrderBatch"])
    states = [order.status for order in exchange.orders(account.key)]
    assert states == ["canceled", "canceled", "open"]


@pytest.mark.parametrize("kind", [kraken, async_kraken], ids=["sync", "async"])
def test_ccxt_public(
    exchange: KrakenSimulator, account: Credentials, kind: Any
) -> None:
    """Plain ccxt loads the market with its precisions, the ticker, the status and the time."""

    async def main() -> None:
        client = ccxt_client(kind, exchange, account)
        try:
            market = (await result(client.load_markets()))[SYMBOL]
            assert market["id"] == "XXBTZUSD"
            assert market["active"]
            assert market["precision"] == {"amount": 1e-8, "price": 0.1}
            assert market["limits"]["amount"]["min"] == 0.0001
            assert client.currencies["BTC"]["precision"] == 1e-10
            assert (await result(client.fetch_ticker(SYMBOL)))["last"] == 37500.0
            assert (await result(client.fetch_status()))["status"] == "ok"
            seconds = exchange.clock.wall() // 1_000_000_000
            assert (await result(client.fetch_time())) // 1000 in (seconds, seconds + 1)
        finally:
            await result(client.close())

    asyncio.run(main())
    check_calls(exchange, account, [])


@pytest.mark.parametrize("kind", [kraken, async_kraken], ids=["sync", "async"])
def test_ccxt_refused(
    exchange: KrakenSimulator, account: Credentials, kind: Any
) -> None:
    """A signature that does not fit and a nonce too small are refused, form or JSON."""
    other = Credentials(account.key, exchange.add_key().secret)

    async def refuse(client: Any, error: str) -> None:
        try:
            with pytest.raises(BaseError, match=error):
                await result(client.fetch_balance())
            with pytest.raises(BaseError, match=error):
                await result(client.cancel_orders(["O00000-00000-000001"]))
        finally:
            await result(client.close())

    async def main() -> None:
        await refuse(ccxt_client(kind, exchange, other), "EAPI:Invalid signature")
        await refuse(ccxt_client(kind, exchange, account), "EAPI:Invalid nonce")

    exchange.raise_floor(account.key, by_seconds=60, unit="us")
    asyncio.run(main())
    stats = exchange.stats(account.key)
    assert (stats.bad_signature, stats.refused_nonce, stats.accepted) == (2, 2, 0)
