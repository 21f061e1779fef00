"""Bots of one key, each written with another client, through the client's own public methods."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import ccxt
import ccxt.async_support
import kraken.spot
import krakenex
import uvloop

import persistent_nonce.adapters.ccxt as our_ccxt
import persistent_nonce.adapters.ccxt.async_support as our_async
import persistent_nonce.adapters.kraken_sdk as our_sdk
import persistent_nonce.adapters.krakenex as our_krakenex
from persistent_nonce import SQLiteStore
from persistent_nonce.steps import run
from persistent_nonce.testing import ScaledClock
from tests.support.simulated import LIMIT

__all__ = ["CLIENTS", "Job", "trade"]

#: Clock seconds that a call may wait for its turn: long, beside five other bots.
_PATIENCE: Final = 3_600.0

#: What both of ccxt's classes, and the SDK, call an order.
_CCXT_ORDER: Final = ("BTC/USD", "limit", "buy", 1.25, 37500)
_SDK_ORDER: Final = {
    "ordertype": "limit",
    "side": "buy",
    "volume": 1.25,
    "pair": "XBTUSD",
    "price": 37500,
}


class Job(NamedTuple):
    """What a bot is to do.

    Attributes:
        client: one of CLIENTS.
        path: of the database; empty for the plain client.
        scale: of the exchange's clock.
        calls: how many.
    """

    client: str
    url: str
    key: str
    secret: str
    path: str
    scale: int
    calls: int


class Desk(NamedTuple):
    """What a client offers: each is called, and awaited if it is asynchronous.

    Attributes:
        balance: returns what has an entry for the coin.
        place: returns the new order's id.
        orders: returns what the open orders are found in by their id.
        cancel: takes the id.
    """

    coin: str
    balance: Callable[[], Any]
    place: Callable[[], Any]
    orders: Callable[[], Any]
    cancel: Callable[[str], Any]


def _krakenex(job: Job, options: dict[str, Any]) -> Desk:
    api = (our_krakenex if options else krakenex).API(job.key, job.secret, **options)
    api.uri = job.url

    def ask(method: str, data: dict[str, Any] | None = None) -> Any:
        reply = api.query_private(method, data)
        if reply["error"]:
            raise RuntimeError(reply["error"])
        return reply["result"]

    return Desk(
        "XXBT",
        lambda: ask("Balance"),
        lambda: ask("AddOrder", LIMIT)["txid"][0],
        lambda: ask("OpenOrders")["open"],
        lambda txid: ask("CancelOrder", {"txid": txid}),
    )


def _sdk(job: Job, options: dict[str, Any]) -> Desk:
    names: Any = our_sdk if options else kraken.spot
    given = {"key": job.key, "secret": job.secret, "url": job.url, **options}
    user, desk = names.User(**given), names.Trade(**given)
    return Desk(
        "XXBT",
        user.get_account_balance,
        lambda: desk.create_order(**_SDK_ORDER)["txid"][0],
        lambda: user.get_open_orders()["open"],
        lambda txid: desk.cancel_order(txid=txid),
    )


def _ccxt(job: Job, options: dict[str, Any]) -> Desk:
    exchange: Any = (our_ccxt if options else ccxt).kraken(_configured(job, options))
    return Desk(
        "BTC",
        exchange.fetch_balance,
        lambda: exchange.create_order(*_CCXT_ORDER)["id"],
        lambda: [order["id"] for order in exchange.fetch_open_orders()],
        exchange.cancel_order,
    )


def _configured(job: Job, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiKey": job.key,
        "secret": job.secret,
        "urls": {"api": {"public": job.url, "private": job.url}},
        "enableRateLimit": bool(options),  # by itself it counts in real seconds
        **options,
    }


async def _async_sdk(job: Job, options: dict[str, Any], end: AsyncExitStack) -> Desk:
    names: Any = our_sdk if options else kraken.spot
    client = names.SpotAsyncClient(job.key, job.secret, job.url, **options)
    await end.enter_async_context(client)

    async def ask(method: str, **params: Any) -> Any:
        return await client.request("POST", f"/0/private/{method}", params=params)

    async def place() -> Any:
        return (await ask("AddOrder", **LIMIT))["txid"][0]

    async def orders() -> Any:
        return (await ask("OpenOrders"))["open"]

    return Desk(
        "XXBT",
        lambda: ask("Balance"),
        place,
        orders,
        lambda txid: ask("CancelOrder", txid=txid),
    )


async def _async_ccxt(job: Job, options: dict[str, Any], end: AsyncExitStack) -> Desk:
    names: Any = our_async if options else ccxt.async_support
    exchange = names.kraken(_configured(job, options))
    end.push_async_callback(exchange.close)

    async def place() -> Any:
        return (await exchange.create_order(*_CCXT_ORDER))["id"]

    async def orders() -> Any:
        return [order["id"] for order in await exchange.fetch_open_orders()]

    return Desk("BTC", exchange.fetch_balance, place, orders, exchange.cancel_order)


#: The clients by name: those whose calls block, and those on an event loop.
_BLOCKING: Final = {"krakenex": _krakenex, "sdk": _sdk, "ccxt": _ccxt}
_LOOPING: Final = {"async sdk": _async_sdk, "async ccxt": _async_ccxt}
CLIENTS: Final = (*_BLOCKING, *_LOOPING)

#: The one whose loop is not asyncio's own.
_ON_UVLOOP: Final = "async sdk"


def trade(*given: Any) -> dict[str, int]:
    """Do a job, with a line on standard output for each call; return how often each error was met."""
    job = Job(*given)
    options: dict[str, Any] = {}
    if job.path:
        store = SQLiteStore(job.path, clock=ScaledClock(job.scale))
        options = {"store": store, "gate_timeout": _PATIENCE, "tier": "pro"}
    if job.client in _BLOCKING:
        return run(_work(_BLOCKING[job.client](job, options), job.calls))
    loop = uvloop.run if job.client == _ON_UVLOOP else asyncio.run
    return loop(_on_a_loop(job, options))


async def _on_a_loop(job: Job, options: dict[str, Any]) -> dict[str, int]:
    async with AsyncExitStack() as end:
        return await _work(await _LOOPING[job.client](job, options, end), job.calls)


async def _work(desk: Desk, calls: int) -> dict[str, int]:
    """Look at the balance, place an order, find it, cancel it, and so on."""
    met: dict[str, int] = {}
    placed = ""
    for number in range(calls):
        try:
            match number % 4:
                case 0:
                    _find(desk.coin, await _result(desk.balance()))
                case 1:
                    placed = ""
                    placed = await _result(desk.place())
                case 2:
                    _find(placed, await _result(desk.orders()))
                case 3:
                    await _result(desk.cancel(placed))
        except Exception as error:  # noqa: BLE001 - whatever the client raises
            name = f"{type(error).__name__}: {error!s:.300}"
            met[name] = met.get(name, 0) + 1
        print("called", flush=True)  # noqa: T201 - the parent reads it
    return met


async def _result(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned


def _find(name: str, result: Any) -> None:
    if name not in result:
        raise RuntimeError(f"{name} is missing in {result!r:.200}")
