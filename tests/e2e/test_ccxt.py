"""ccxt bots on keys of the simulated exchange, on threads and on event loops: its own counters are the judge."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import ccxt
import ccxt.pro
import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.adapters.ccxt import pro
from persistent_nonce.errors import (
    CallError,
    GateTimeoutError,
    KeyClosedError,
    LockedOutError,
    NonceError,
    StoreReplacedError,
)
from persistent_nonce.state import fingerprint
from persistent_nonce.testing import (
    Credentials,
    KrakenSimulator,
    Lockout,
)
from tests.support import ccxt_clients, trading
from tests.support.ccxt_clients import PLAIN, Client, check_arrivals, waiting
from tests.support.simulated import LIMIT
from tests.support.trading import Aside, until

pytestmark = ccxt_clients.QUIET

#: As much of a market as ccxt needs to place an order and to read one.
MARKET: Final = {
    "id": "XXBTZUSD",
    "wsId": "XBT/USD",
    "altname": "XBTUSD",
    "symbol": "BTC/USD",
    "base": "BTC",
    "quote": "USD",
    "type": "spot",
    "spot": True,
    "precision": {"amount": 0.0001, "price": 0.1},
    "limits": {"amount": {"min": 0.0001}},
}


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=20, latency=0) as simulator:
        yield simulator


account, store, client = trading.account, trading.store, ccxt_clients.client


def without(told: Any, names: set[str]) -> Any:
    """Return what ccxt told without the entries that differ each time."""
    if isinstance(told, list):
        return [without(entry, names) for entry in told]
    if isinstance(told, dict):
        kept = {n: without(v, names) for n, v in told.items() if n not in names}
        return {name: value for name, value in kept.items() if name[0] != "O"}
    return told


def trade(client: Client) -> list[Any]:
    """Place an order, look for it and cancel it, all through ccxt's own methods."""
    client.raw.set_markets([MARKET])
    order = client.call("create_order", "BTC/USD", "limit", "buy", 1.25, 37500)
    opened = client.call("fetch_open_orders", "BTC/USD")
    cancelled = client.call("cancel_order", order["id"], "BTC/USD")
    told = [order, opened, cancelled, client.call("privatePostBalance")]
    changing = {"id", "txid", "timestamp", "datetime", "opentm", "lastTradeTimestamp"}
    assert [one["id"] for one in opened] == [order["id"]]
    return [without(one, changing) for one in told]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_ordinary_results_are_ccxt_s(
    kind: ccxt_clients.Kind, exchange: KrakenSimulator, store: SQLiteStore
) -> None:
    """What ccxt's own methods return, for ccxt's class and for ours, is the same."""
    told = []
    for made_by in (PLAIN[kind], None):
        one = Client(
            kind,
            exchange=exchange,
            account=exchange.add_key(),
            store=store,
            made_by=made_by,
        )
        told.append(trade(one))
        assert (one.raw.id, one.raw.name) == ("kraken", "Kraken")
        calls = one.outcomes
        one.close()
    assert told[0] == told[1]
    assert [outcome for _, outcome in calls] == ["ok"] * 4


def test_a_call_for_the_token_of_websockets(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """The class with WebSockets is ccxt's own of these, and asks for their token in its turn."""
    assert issubclass(pro.kraken, ccxt.pro.kraken)
    one = Client(
        "async", exchange=exchange, account=account, store=store, made_by=pro.kraken
    )
    assert one.call("privatePostGetWebSocketsToken")["result"]["token"]
    one.close()
    assert one.outcomes == [("GetWebSocketsToken", "ok")]
    check_arrivals(one, 1)


# --- the nonce


def test_a_floor_raised_by_a_foreign_program_is_healed(client: Client) -> None:
    """A floor 45 s ahead costs one refusal, and the key is verified after it; the caller gets the reply."""
    client.call("privatePostBalance")
    client.exchange.raise_floor(client.account.key, by_seconds=45.0)
    assert client.call("privatePostAddOrder", LIMIT)["error"] == []
    stats = client.exchange.stats(client.account.key)
    assert stats.refused_nonce == 1
    methods = [arrival.method for arrival in stats.arrivals]
    assert methods == ["Balance", "AddOrder", "AddOrder", "GetApiKeyInfo"]
    outcomes = [outcome for _, outcome in client.outcomes]
    assert outcomes == ["ok", "invalid_nonce", "ok", "ok"]
    assert len(client.orders) == 1


def test_when_attempts_run_out_it_is_ccxt_s_error_and_the_key_is_closed(
    client: Client,
) -> None:
    """A floor an hour ahead: two refusals as asked for, ccxt's InvalidNonce, then an error of both families."""
    client.raw = ccxt_clients.connect(
        type(client.raw)({**client.config, "recovery": {"attempts": 2, "wait": 1}}),
        client.exchange.url,
    )
    client.exchange.raise_floor(client.account.key, by_seconds=3600)
    with pytest.raises(ccxt.InvalidNonce) as refused:
        client.call("privatePostAddOrder", LIMIT)
    assert not isinstance(refused.value, NonceError)
    with pytest.raises(KeyClosedError, match="2 nonces in a row") as closed:
        client.call("privatePostBalance")
    check_unsent(closed.value, KeyClosedError)
    assert [outcome for _, outcome in client.outcomes] == ["invalid_nonce"] * 2
    assert len(client.arrivals) == 2


def test_the_stored_unit_is_followed(client: Client) -> None:
    """A key whose nonces are in µs gets them from a client without an opinion."""
    first = NonceProvider(client.store, client.account.key, unit="us").next()
    client.call("privatePostBalance")
    (arrival,) = client.arrivals
    assert arrival.nonce is not None
    assert first < arrival.nonce < first + 3600 * 10**6


def test_a_client_is_given_another_key(client: Client) -> None:
    """The gate follows `apiKey`: each key's calls have the nonces of its own row, smaller than the last ones or not."""
    other = client.exchange.add_key()
    NonceProvider(client.store, client.account.key, unit="us").next()
    client.call("privatePostBalance")
    client.raw.apiKey, client.raw.secret = other
    client.call(
        "privatePostBalance"
    )  # in ms, so that ccxt's own count would go on in us
    for key in (client.account.key, other.key):
        (call,) = client.store.calls(fingerprint(key))
        (arrival,) = client.exchange.stats(key).arrivals
        assert (call.method, call.outcome) == ("Balance", "ok")
        assert call.nonce == arrival.nonce == client.exchange.stats(key).nonce


def test_a_key_set_while_a_call_waited_is_not_given_its_nonce(client: Client) -> None:
    """A call that began with one key is not sent with another, whose row knows nothing of the nonce (I1)."""
    other = client.exchange.add_key()
    with CallGate(client.store, client.account.key).call("holds the key") as held:
        call = Aside(partial(client.call, "privatePostAddOrder", LIMIT))
        until(partial(waiting, client, 1), "the call waits")
        client.raw.apiKey, client.raw.secret = other
        held.not_sent()
    with pytest.raises(CallError, match="key was changed") as caught:
        call.result()
    check_unsent(caught.value, CallError)
    assert client.outcomes[1:] == [("AddOrder", "not_sent")]
    assert client.arrivals == []


# --- calls that were not sent


def check_unsent(error: Exception, kind: type[NonceError]) -> None:
    """Check that an error is of both families, never a RequestTimeout, and survives pickling."""
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own
        assert isinstance(one, kind)
        assert isinstance(one, ccxt.DDoSProtection)
        assert not isinstance(one, ccxt.RequestTimeout)
        assert (str(one), one.hint) == (str(error), getattr(error, "hint", ""))


def lock_out(client: Client) -> None:
    """Have the exchange lock the key out."""
    client.exchange.inject(Lockout())
    with pytest.raises(ccxt.DDoSProtection):
        client.call("privatePostBalance")


def lose_the_store(client: Client) -> None:
    """Delete the store's file."""
    client.call("privatePostBalance")
    client.store.path.unlink()


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [(lock_out, LockedOutError), (lose_the_store, StoreReplacedError)],
)
def test_what_was_not_sent_is_ours_and_ccxt_s(
    spoil: Callable[[Client], None], kind: type[NonceError], client: Client
) -> None:
    """A lockout that outlasts the call and a store that fails are errors of both families; nothing arrives (I9)."""
    client.raw = ccxt_clients.connect(
        type(client.raw)({**client.config, "gate_timeout": 60}), client.exchange.url
    )
    spoil(client)
    with pytest.raises(kind) as caught:
        client.call("privatePostAddOrder", LIMIT)
    check_unsent(caught.value, kind)
    assert [arrival.method for arrival in client.arrivals] == ["Balance"]


def test_no_turn_in_time_is_a_timeout_but_none_of_ccxt_s(client: Client) -> None:
    """Without a turn within `gate_timeout` the error names the holder, and nobody takes the call for a sent one."""
    client.raw = ccxt_clients.connect(
        type(client.raw)({**client.config, "gate_timeout": 2}), client.exchange.url
    )
    with CallGate(client.store, client.account.key).call("holds the key") as held:
        call = Aside(partial(client.call, "privatePostAddOrder", LIMIT))
        with pytest.raises(GateTimeoutError, match="holds the key") as caught:
            call.result()
        held.not_sent()
    assert isinstance(caught.value, TimeoutError)
    check_unsent(caught.value, GateTimeoutError)
    assert client.arrivals == []
