"""ccxt clients of one key at once: on threads, as tasks of a loop, in bots of their own that know only a name."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.testing import Credentials, KrakenSimulator, LostReply
from tests.support import ccxt_clients, trading
from tests.support.ccxt_clients import Client, check_arrivals, waiting
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD, until

pytestmark = ccxt_clients.QUIET


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=20, latency=0) as simulator:
        yield simulator


account, store = trading.account, trading.store


def test_threads_share_one_client(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """8 threads with one client: every call is accepted, one in flight at a time (I2, I5)."""
    one = Client("sync", exchange=exchange, account=account, store=store)
    with ThreadPoolExecutor(8) as threads:
        calls = [
            threads.submit(one.call, "privatePostAddOrder", LIMIT) for _ in range(40)
        ]
        ids = {call.result(GUARD)["result"]["txid"][0] for call in calls}
    one.close()
    assert {order.txid for order in one.orders} == ids
    check_arrivals(one, 40)


def test_tasks_threads_and_both_classes_share_the_order(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """60 tasks of one client, and 4 threads of another: one order for all (I2, I5)."""
    loop = Client("async", exchange=exchange, account=account, store=store)
    plain = Client("sync", exchange=exchange, account=account, store=store)

    async def tasks() -> list[Any]:
        return await asyncio.gather(
            *(loop.raw.privatePostAddOrder(LIMIT) for _ in range(60))
        )

    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(plain.call, "privatePostAddOrder", LIMIT) for _ in range(20)
        ]
        told = loop.run(tasks) + [call.result(GUARD) for call in calls]
    loop.close()
    plain.close()
    assert all(reply["error"] == [] for reply in told)
    check_arrivals(loop, 80)


@pytest.fixture
def awaited(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> Iterator[Client]:
    """Connect a client on an event loop."""
    made = Client("async", exchange=exchange, account=account, store=store)
    yield made
    made.close()


def test_a_call_cancelled_while_it_waits_leaves_nothing(awaited: Client) -> None:
    """A task that is cancelled in the queue leaves it, and sends nothing; the next call has its turn (I4)."""

    async def work() -> None:
        async with CallGate(awaited.store, awaited.account.key).call("holds") as held:
            call = asyncio.ensure_future(awaited.raw.privatePostAddOrder(LIMIT))
            await asyncio.to_thread(
                until, partial(waiting, awaited, 1), "the call waits"
            )
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert waiting(awaited, 0)
            held.not_sent()
        await awaited.raw.privatePostBalance()

    awaited.run(work)
    assert awaited.outcomes == [("holds", "not_sent"), ("Balance", "ok")]
    check_arrivals(awaited, 1)


def test_a_call_cancelled_in_flight_is_in_doubt(awaited: Client) -> None:
    """A task that is cancelled while the exchange has its order leaves it in doubt; the next call has its turn."""
    awaited.exchange.inject(LostReply(after=3600))

    async def work() -> None:
        call = asyncio.ensure_future(awaited.raw.privatePostAddOrder(LIMIT))
        await asyncio.to_thread(until, lambda: awaited.orders, "the order")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await awaited.raw.privatePostBalance()

    awaited.run(work)
    assert awaited.outcomes == [("AddOrder", "unknown"), ("Balance", "ok")]
    assert [doubt.method for doubt in awaited.call("in_doubt")] == ["AddOrder"]
    assert len(awaited.orders) == 1


#: What starts a bot that finds its exchange by name in ccxt's modules; the bot is freqtrade.
START: Final = """
import ccxt
import ccxt.async_support
import ccxt.pro

from persistent_nonce.adapters.ccxt import async_support, kraken, pro

ccxt.kraken = kraken
ccxt.async_support.kraken = async_support.kraken
ccxt.pro.kraken = pro.kraken

from freqtrade.main import main

main()
"""

#: Stands for freqtrade: it makes its exchanges in the same steps, from its own configuration, and trades.
STAND_IN: Final = """
import asyncio, json, sys
import ccxt
import ccxt.pro as ccxt_pro

def make(exchange_config, module):
    name = exchange_config["name"]
    assert name in module.exchanges
    config = {
        "apiKey": exchange_config.get("key"),
        "secret": exchange_config.get("secret"),
        "password": exchange_config.get("password"),
        "uid": exchange_config.get("uid", ""),
        "walletAddress": exchange_config.get("wallet_address"),
    }
    config.update(exchange_config["ccxt_config"])
    return getattr(module, name.lower())(config)

def main():
    with open(sys.argv[-1]) as file:
        config = json.load(file)["exchange"]
    api, api_async = make(config, ccxt), make(config, ccxt_pro)
    api.options = api_async.options
    loop = asyncio.new_event_loop()
    for _ in range(5):
        api.privatePostAddOrder(config["order"])
        loop.run_until_complete(api_async.privatePostBalance())
    loop.run_until_complete(api_async.close())
    loop.close()
    print(api.id, api_async.id)
"""


def test_two_bots_that_know_only_the_name_of_an_exchange(tmp_path: Path) -> None:
    """Two freqtrade bots on one key, each with its two exchanges, share one order: no nonce is refused (I1, I5)."""
    (tmp_path / "freqtrade").mkdir()
    (tmp_path / "freqtrade" / "main.py").write_text(STAND_IN)
    (tmp_path / "trade.py").write_text(START)
    with KrakenSimulator(tier="pro", latency=0) as exchange:
        account = exchange.add_key()
        urls = {"api": {"public": exchange.url, "private": exchange.url}}
        config = {
            "name": "kraken",
            "key": account.key,
            "secret": account.secret,
            "ccxt_config": {"tier": "pro", "urls": urls},
            "order": LIMIT,
        }
        (tmp_path / "config.json").write_text(json.dumps({"exchange": config}))
        command = [sys.executable, "trade.py", "trade", "--config", "config.json"]
        place = {"PERSISTENT_NONCE_DB": str(tmp_path / "nonces.db")}
        bots = [
            subprocess.Popen(
                command, cwd=tmp_path, env=os.environ | place, stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        try:
            told = [bot.communicate(timeout=GUARD)[0] for bot in bots]
        finally:
            for bot in bots:
                bot.kill()
    assert told == [b"kraken kraken\n"] * 2
    arrivals = exchange.stats(account.key).arrivals
    assert {arrival.verdict for arrival in arrivals} == {"accepted"}
    assert not any(arrival.overlapped for arrival in arrivals)
    assert len(arrivals) == 20
