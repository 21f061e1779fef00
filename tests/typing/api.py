"""Each public name as a caller writes it: mypy reads this file, nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import ccxt
import ccxt.async_support
import krakenex
from kraken import base_api, spot

from persistent_nonce import (
    CallGate,
    GateTimeoutError,
    InvalidNonceError,
    LockedOutError,
    NonceError,
    NonceProvider,
    Rate,
    Recovery,
    SQLiteStore,
    StoreError,
    open_store,
)
from persistent_nonce.adapters import ccxt as ours
from persistent_nonce.adapters import kraken_sdk
from persistent_nonce.adapters.ccxt import async_support, pro
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.calls import Call
from persistent_nonce.doubt import Doubt
from persistent_nonce.errors import (
    CallError,
    ConfigurationError,
    KeyClosedError,
    StoreTimeoutError,
    UnitMismatchError,
)
from persistent_nonce.findings import Finding
from persistent_nonce.gate import Attempt
from persistent_nonce.state import CallRecord, KeyState
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DrippingReply,
    KrakenSimulator,
    LostReply,
    Order,
    ScaledClock,
    Stats,
)


def stores() -> None:
    """Open a store, by path or in the default place, and ask it."""
    assert_type(open_store(), SQLiteStore)
    with SQLiteStore("nonces.db", shared=True, timeout=5.0) as store:
        assert_type(store, SQLiteStore)
        assert_type(store.path, Path)
        assert_type(store.keys(), list[str])
        assert_type(store.read("0123456789abcdef"), KeyState)
        assert_type(store.calls(limit=10), list[CallRecord])
    wanted: Store = SQLiteStore(Path("nonces.db"), clock=ScaledClock(20))
    wanted = MemoryStore(clock=ScaledClock(20))
    wanted.close()


def nonces(store: Store) -> None:
    """Draw nonces, one by one, as a function, and several at once."""
    provider = NonceProvider(store, "key", unit="us")
    assert_type(provider.next(), int)
    assert_type(provider(), int)
    assert_type(provider.reserve(10), range)
    assert_type(provider.last, int)
    provider.raise_floor(1_700_000_000_000)


def calls(store: Store) -> None:
    """Make calls on a thread."""
    gate = CallGate(
        store,
        "key",
        min_interval=0.2,
        rate=Rate(every=1.0, burst=19, tier="pro"),
        timeout=60.0,
        hold_timeout=300.0,
        recovery=Recovery(jump=60, wait=30, factor=10, attempts=3, max_lead=900),
    )
    with gate.call("Balance", cost=1, priority=0, timeout=None) as call:
        assert_type(call, Call)
        assert_type(call.nonce, int)
        assert_type(call.waited, float)
        call.settle("error")
        call.not_sent()
    assert_type(gate.attempts("Balance"), Iterator[Attempt])
    for attempt in gate.attempts("AddOrder", cost=0, priority=10, durable=True):
        with attempt as tried:
            raise InvalidNonceError(f"nonce {tried.nonce}", "try again")


async def calls_of_a_task(store: Store) -> int:
    """Make the same calls on an event loop."""
    gate = CallGate(store, "key")
    async with gate.call("Balance") as call:
        assert_type(call.nonce, int)
    for attempt in gate.attempts("Balance"):
        async with attempt as tried:
            return tried.nonce
    return 0


def result_of_a_call(gate: CallGate) -> int:
    """Return from within the block: a call lets no error go unseen, so that nothing is missing after it."""
    with gate.call("Balance") as call:
        return call.nonce


def krakenex_client(store: Store) -> None:
    """Put the drop-in client where krakenex was."""
    client = API(
        "key",
        "secret",
        store=store,
        tier="pro",
        unit="ms",
        min_interval=0.2,
        timeout=30.0,
        gate_timeout=60.0,
        recovery=Recovery(),
    )
    plain: krakenex.API = client
    plain.uri = "http://127.0.0.1"
    assert_type(client.query_private("Balance"), Any)
    client.query_private("AddOrder", {"pair": "XBTUSD"}, timeout=5)
    client.query_private("AddOrder", {"pair": "XBTUSD"}, timeout=(5.0, None))


def ccxt_client(store: Store) -> None:
    """Put the drop-in client where ccxt's was, with its settings in ccxt's own configuration."""
    client = ours.kraken({"apiKey": "key", "secret": "secret", "tier": "pro"})
    plain: ccxt.kraken = client
    plain.timeout = 30_000
    assert_type(client.gate_timeout, float)
    assert_type(client.in_doubt(), list[Doubt])
    assert_type(client.reconcile(), list[Doubt])
    assert_type(client.verify_key(), list[Finding])
    ours.kraken({"store": store, "recovery": Recovery()})


async def ccxt_clients_on_a_loop() -> None:
    """Put the awaited ones where ccxt's were."""
    client: ccxt.async_support.kraken = async_support.kraken({"unit": "us"})
    client = pro.kraken({"min_interval": 0.2})
    assert isinstance(client, async_support.kraken)
    assert_type(await client.in_doubt(), list[Doubt])
    assert_type(await client.verify_key(), list[Finding])


def kraken_sdk_clients(store: Store) -> None:
    """Put the drop-in clients where python-kraken-sdk's were."""
    client = kraken_sdk.SpotClient(
        "key",
        "secret",
        url="http://127.0.0.1",
        store=store,
        tier="pro",
        unit="10ns",
        min_interval=0.2,
        gate_timeout=60.0,
        recovery=Recovery(),
    )
    plain: base_api.SpotClient = client
    assert_type(plain.get_nonce(), str)
    assert_type(client.request("POST", "/0/private/Balance", timeout=5), Any)
    assert_type(client.in_doubt(), list[Doubt])
    user: spot.User = kraken_sdk.User("key", "secret", store=store)
    user.get_account_balance()
    kraken_sdk.Trade("key", "secret").cancel_order(txid="O")
    kraken_sdk.Market(store=store).get_system_status()


async def kraken_sdk_clients_of_a_task(store: Store) -> None:
    """Do the same on an event loop."""
    client = kraken_sdk.SpotAsyncClient("key", "secret", store=store)
    plain: base_api.SpotAsyncClient = client
    assert_type(await client.request("POST", "/0/private/Balance"), Any)
    assert_type(await client.reconcile(), list[Doubt])
    assert_type(await client.verify(), list[Finding])
    await plain.close()
    sockets = kraken_sdk.SpotWSClient("key", "secret", no_public=True, store=store)
    await sockets.get_ws_token()


def errors(gate: CallGate) -> str:
    """Catch errors of this library, by its own base or by a builtin one."""
    try:
        gate.call("Balance")
    except (GateTimeoutError, StoreTimeoutError) as error:
        waited: TimeoutError = error
        return str(waited)
    except (LockedOutError, KeyClosedError) as error:
        unsent: CallError = error
        return assert_type(unsent.hint, str)
    except UnitMismatchError as error:
        wrong: ConfigurationError | ValueError = error
        return str(wrong)
    except (StoreError, NonceError) as error:
        return error.hint
    return ""


def simulator() -> None:
    """Run the exchange that programs are tested against."""
    with KrakenSimulator(tier="pro", time_scale=20, relax=["overlap"]) as exchange:
        account = exchange.add_key(tier="starter")
        assert_type(account, Credentials)
        assert_type(exchange.url, str)
        assert_type(exchange.clock, ScaledClock)
        exchange.inject(LostReply(after=1.0), times=2, method="AddOrder")
        exchange.inject(DrippingReply(), key=account.key)
        exchange.inject(BadGateway(status=520, executed=True))
        assert_type(exchange.raise_floor(account.key, by_seconds=45.0), int)
        assert_type(exchange.stats(account.key), Stats)
        assert_type(exchange.orders(account.key), list[Order])
