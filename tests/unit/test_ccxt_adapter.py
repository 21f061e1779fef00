"""The drop-in classes for ccxt by themselves: how they are made, and what of ccxt they leave as it was."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import ccxt
import pytest
import requests
from requests.adapters import HTTPAdapter

from persistent_nonce import CallGate, Recovery, SQLiteStore, stores
from persistent_nonce.adapters import base, limits
from persistent_nonce.adapters.ccxt.gated import PRIVATE, once
from persistent_nonce.adapters.sending import Sending
from persistent_nonce.errors import (
    CallError,
    ConfigurationError,
    ExchangeError,
    StorePermissionError,
)
from persistent_nonce.testing import Credentials, KrakenSimulator
from tests.support import ccxt_clients, trading
from tests.support.ccxt_clients import CLASSES, PLAIN, Client, Kind, connect
from tests.support.simulated import LIMIT
from tests.support.trading import outcomes

pytestmark = ccxt_clients.QUIET

KINDS: Final[list[Kind]] = ["sync", "async"]


class Forbidden:
    """A store that nobody may use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked for {name}")


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything, 20 times as fast."""
    with KrakenSimulator(time_scale=20, latency=0) as simulator:
        yield simulator


account, store, client = trading.account, trading.store, ccxt_clients.client


# --- making one


@pytest.mark.parametrize("kind", KINDS)
def test_the_constructor_does_no_io(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Making a client opens no store and makes neither file nor connection."""

    def forbidden(*_: object, **__: object) -> Any:
        raise AssertionError("called")

    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "nonces.db"))
    monkeypatch.setattr(base, "open_store", forbidden)
    monkeypatch.setattr("socket.socket.connect", forbidden)
    CLASSES[kind]()
    CLASSES[kind]({"tier": "pro", "unit": "us", "recovery": Recovery(attempts=5)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"tier": "gold"},
        {"unit": "min"},
        {"min_interval": -1},
        {"gate_timeout": -1},
        {"gate_timeout": "60"},
        {"store": "nonces.db"},
        {"recovery": {"attempts": 0}},
        {"recovery": {"tries": 1}},
    ],
    ids=str,
)
def test_an_unusable_setting_is_refused(kind: Kind, wrong: dict[str, Any]) -> None:
    """A configuration with what cannot be used makes no client."""
    with pytest.raises(ConfigurationError):
        CLASSES[kind](wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_of_json_names_all_that_is_needed(
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """From plain JSON a client has its settings, and its store in the default place, opened by no event loop."""
    opened = []

    def open_store() -> SQLiteStore:
        opened.append(threading.current_thread())
        return stores.open_store()

    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "nonces.db"))
    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", open_store)
    with KrakenSimulator(latency=0) as exchange:
        account = exchange.add_key(tier="pro")
        text = json.dumps(
            {
                "apiKey": account.key,
                "secret": account.secret,
                "tier": "pro",
                "unit": "us",
                "min_interval": 0.3,
                "gate_timeout": 30,
                "recovery": {"attempts": 4},
            }
        )
        raw = connect(CLASSES[kind](json.loads(text)), exchange.url)
        if kind == "sync":
            raw.privatePostBalance()
        else:

            async def work() -> None:
                await raw.privatePostBalance()
                await raw.close()

            asyncio.run(work())
    (store,) = base._shared
    assert isinstance(store, SQLiteStore)
    (name,) = store.keys()
    state = store.read(name)
    assert (state.tier, state.unit, state.attempts) == ("pro", "us", 4)
    assert state.min_interval == 300_000_000
    assert store.path == tmp_path / "nonces.db"
    store.close()
    (thread,) = opened
    assert (thread is threading.main_thread()) == (kind == "sync")


def test_a_default_store_that_cannot_be_opened_is_a_call_not_sent(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """An error in opening the default store is of both families, and nothing is sent (I9)."""

    def broken() -> Any:
        raise StorePermissionError("not yours", "chown it")

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", broken)
    config = {name: v for name, v in client.config.items() if name != "store"}
    client.raw = connect(CLASSES[client.kind](config), client.exchange.url)
    for question in ("privatePostBalance", "in_doubt", "verify_key"):
        with pytest.raises(StorePermissionError, match="not yours") as caught:
            client.call(question)
        assert isinstance(caught.value, ccxt.DDoSProtection)
    assert client.arrivals == []


def test_only_what_is_asked_for_is_imported() -> None:
    """The class without a loop brings no asynchronous one, and that one none with WebSockets."""
    program = (
        "import sys, persistent_nonce.adapters.ccxt;"
        "assert 'ccxt.async_support.kraken' not in sys.modules;"
        "import persistent_nonce.adapters.ccxt.async_support;"
        "assert 'ccxt.pro' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))],  # noqa: S301 - our own
)
def test_a_copy_is_a_client_too(
    kind: Kind, again: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of ccxt's, copies can be made of a client, which have the same settings, also after a call."""
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "nonces.db"))
    monkeypatch.setattr(base, "_shared", [])
    made = CLASSES[kind]({"apiKey": "a key", "secret": "c2VjcmV0", "tier": "pro"})
    made._gates.of(made.apiKey)
    copied = again(made)
    assert type(copied) is CLASSES[kind]
    assert copied._gates.of("a key").key == made._gates.of("a key").key
    assert copied._gates._make.keywords == made._gates._make.keywords
    base._shared[0].close()


# --- what is left as it was


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_ccxt_has_are_ccxt_s(kind: Kind) -> None:
    """Of our names only ccxt's methods that we pass on are also ccxt's; `verify` says whether certificates are."""
    plain, ours = PLAIN[kind](), CLASSES[kind]()
    for name in ("store", "tier", "unit", "min_interval", "gate_timeout", "recovery"):
        assert not hasattr(plain, name)
    for name in ("in_doubt", "reconcile", "verify_key", "_gates", "_account", "_put"):
        assert not hasattr(plain, name)
    assert ours.verify is plain.verify is True
    assert CLASSES[kind]({"verify": False}).verify is False
    assert callable(ours.verify_key)


def test_public_calls_never_touch_the_store(client: Client) -> None:
    """A public call is ccxt's own, with a store that fails on any use."""
    config = client.config | {"store": Forbidden()}
    client.raw = connect(CLASSES[client.kind](config), client.exchange.url)
    assert client.call("publicGetTime")["result"]["unixtime"]


def test_the_caller_s_params_are_untouched(client: Client) -> None:
    """The nonce, and what keeps ccxt from repeating, go into a copy, and the latter not to the exchange."""
    params = dict(LIMIT, maxRetriesOnFailure=2)
    client.call("privatePostAddOrder", params)
    assert params == dict(LIMIT, maxRetriesOnFailure=2)
    assert "maxRetries" not in client.raw.last_request_body
    assert once(None) == {"maxRetriesOnFailure": 0}


def test_only_public_calls_are_throttled(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace of ccxt holds for public calls, as before; a private call has had its turn by then."""
    costs = []

    def throttle(self: Any, cost: Any = None) -> Any:
        costs.append(cost)
        return asyncio.sleep(0) if client.kind == "async" else None

    monkeypatch.setattr(PLAIN[client.kind], "throttle", throttle)
    client.call("privatePostBalance")
    client.call("verify_key")
    assert costs == []
    client.call("publicGetTime")
    assert costs == [1]


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"error": []},
        {"error": [], "result": {}},
        {"error": [], "result": {"unixtime": float("inf")}},
    ],
)
def test_an_exchange_that_does_not_tell_its_time(
    told: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply without a time is our ExchangeError, in whatever way it lacks one."""

    async def wait() -> Any:
        return told

    tell = wait if client.kind == "async" else lambda: told
    monkeypatch.setattr(client.raw, "publicGetTime", tell)
    with pytest.raises(ExchangeError, match="Time"):
        client.call("_ask_time")


def test_a_public_call_that_is_throttled_holds_up_no_private_one(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """While ccxt lets public calls wait for an hour, private ones of the same client go on."""
    made = Client(
        "async", exchange=exchange, account=account, store=store, rateLimit=3_600_000
    )

    async def work() -> None:
        await made.raw.publicGetTime()
        held_up = asyncio.ensure_future(made.raw.publicGetTime())
        await made.raw.privatePostBalance()
        await made.raw.privatePostBalance()
        assert not held_up.done()
        held_up.cancel()

    made.run(work)
    made.close()
    assert outcomes(store, account.key) == [("Balance", "ok")] * 2


def test_a_status_that_is_no_success_is_in_doubt(client: Client) -> None:
    """A reply of the exchange's form without an error, but from a gateway that failed, does not say what happened."""
    body = '{"error": [], "result": {}}'
    held = CallGate(client.store, client.account.key).call("AddOrder")
    with held as call, Sending[None](call, 60.0, ccxt.DDoSProtection):
        client.raw.on_rest_response(504, "late", "", "POST", {}, body, {}, "")
    assert client.outcomes == [("AddOrder", "unknown")]


def test_connections_of_a_socks_proxy_are_let_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the proxies that ccxt's `socksProxy` names are of a special kind, which no limit may replace."""
    special = {"https": object()}
    manager = SimpleNamespace(pool_classes_by_scheme=special)
    monkeypatch.setattr(HTTPAdapter, "proxy_manager_for", lambda *_, **__: manager)
    session = requests.Session()
    limits.watch(session)
    adapter = session.get_adapter("https://exchange.invalid/")
    assert type(adapter) is not HTTPAdapter
    assert isinstance(adapter, HTTPAdapter)
    adapter.proxy_manager_for("socks5://proxy.invalid")
    assert manager.pool_classes_by_scheme is special


# --- nonces outside a call


def test_a_private_request_signed_outside_a_call_is_refused(client: Client) -> None:
    """Nobody else is to have a nonce of ccxt's for this key: signing by oneself is an error of both families."""
    with pytest.raises(CallError, match="outside a call") as caught:
        client.raw.sign("Balance", PRIVATE, "POST", {})
    assert isinstance(caught.value, ccxt.DDoSProtection)
    assert "privatePostBalance" in caught.value.hint
    assert client.store.keys() == []


def test_outside_a_call_a_nonce_is_ccxt_s(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nonce()` counts milliseconds as ccxt's does, and so does the one of newer versions."""
    monkeypatch.setattr(client.raw, "milliseconds", lambda: 1_700_000_000_000)
    assert client.raw.nonce() == 1_700_000_000_000
    if hasattr(PLAIN[client.kind], "incrementing_nonce"):
        assert client.raw.incrementing_nonce() == 1_700_000_000_000
