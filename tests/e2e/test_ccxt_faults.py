"""ccxt calls that go wrong on the wire or at the exchange: what the caller gets, and what is recorded."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any, Final

import ccxt
import pytest

from persistent_nonce.errors import NonceError
from persistent_nonce.state import fingerprint
from persistent_nonce.testing import (
    BadGateway,
    DelayedExecution,
    DrippingReply,
    Fault,
    KrakenSimulator,
    Lockout,
    LostReply,
    Throttled,
    Unavailable,
)
from tests.support import ccxt_clients, trading
from tests.support.ccxt_clients import Client, connect
from tests.support.resending import Answer, between
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD

pytestmark = ccxt_clients.QUIET

#: Milliseconds that a client of these tests waits for a part of a reply, where it is to wait in vain.
SHORT: Final = 500

#: A reply that is never late with a byte, and takes seconds.
DRIP: Final = DrippingReply(interval=0.02)

#: Options that make ccxt send again whatever failed.
EAGER: Final = {"maxRetriesOnFailure": 3, "AddOrder": {"maxRetriesOnFailure": 3}}


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything, 20 times as fast."""
    with KrakenSimulator(time_scale=20, latency=0) as simulator:
        yield simulator


account, store, client = trading.account, trading.store, ccxt_clients.client


@pytest.mark.parametrize(
    ("fault", "error", "executed"),
    [
        (BadGateway(502), ccxt.ExchangeNotAvailable, False),
        (BadGateway(520, executed=True), ccxt.ExchangeNotAvailable, True),
        (DelayedExecution(seconds=0.0), ccxt.RequestTimeout, True),
        (LostReply(), ccxt.NetworkError, True),
        (LostReply(after=3600), ccxt.RequestTimeout, True),
        (DRIP, ccxt.RequestTimeout, True),
    ],
    ids=str,
)
def test_a_fault_passes_unchanged_in_doubt_and_unrepeated(
    fault: Fault,
    error: type[Exception],
    executed: bool,
    client: Client,
) -> None:
    """The caller gets ccxt's own error, the record says unknown, and nothing is repeated, though ccxt is told to."""
    client.raw.options.update(EAGER)
    client.exchange.inject(fault)
    waits = fault in {DRIP, LostReply(after=3600)}
    client.raw.timeout = SHORT if waits else GUARD * 1000
    begun = time.monotonic()
    with pytest.raises(error) as caught:
        client.call("privatePostAddOrder", {**LIMIT, "maxRetriesOnFailure": 3})
    assert time.monotonic() - begun < GUARD
    assert not isinstance(caught.value, NonceError)
    assert len(client.arrivals) == 1
    assert len(client.orders) == executed
    assert client.outcomes == [("AddOrder", "unknown")]
    client.raw.timeout = GUARD * 1000
    assert client.call("privatePostBalance")["error"] == []
    assert not any(arrival.overlapped for arrival in client.arrivals)


@pytest.mark.parametrize("executed", [False, True])
def test_a_reply_that_does_not_parse_is_in_doubt(
    executed: bool,
    client: Client,
) -> None:
    """A page of HTML is returned as text, as by ccxt; the record says that nobody knows."""
    client.exchange.inject(BadGateway(200, executed=executed))
    assert "<html>" in client.call("privatePostAddOrder", LIMIT)
    assert len(client.arrivals) == 1
    assert len(client.orders) == executed
    assert client.outcomes == [("AddOrder", "unknown")]


@pytest.mark.parametrize(
    ("fault", "error", "outcome"),
    [
        (Throttled(seconds=1.0), ccxt.ExchangeError, "error"),
        (Lockout(), ccxt.DDoSProtection, "error"),
        (Unavailable(executed=True), ccxt.ExchangeNotAvailable, "unknown"),
    ],
    ids=str,
)
def test_only_a_refused_nonce_is_tried_again(
    fault: Fault,
    error: type[Exception],
    outcome: str,
    client: Client,
) -> None:
    """Any other error of the exchange is raised as ccxt raises it, recorded, and sent once."""
    client.raw.options.update(EAGER)
    client.exchange.inject(fault)
    with pytest.raises(error) as caught:
        client.call("privatePostAddOrder", LIMIT)
    assert not isinstance(caught.value, NonceError)
    assert len(client.arrivals) == 1
    assert client.outcomes == [("AddOrder", outcome)]


def test_an_order_that_is_refused_is_not_sent_again(
    client: Client,
) -> None:
    """What the exchange says of an order is ccxt's own error, once."""
    with pytest.raises(ccxt.InvalidOrder, match="Unknown order"):
        client.call("privatePostCancelOrder", {"txid": "none"})
    assert len(client.arrivals) == 1
    assert client.outcomes == [("CancelOrder", "error")]


def test_without_a_connection_nothing_was_sent(
    client: Client,
) -> None:
    """A refused connection is ccxt's own error, recorded as not sent; its nonce is burnt, its cost given back."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        connect(client.raw, f"http://127.0.0.1:{unused.getsockname()[1]}")
        for _ in range(3):
            with pytest.raises(ccxt.NetworkError) as caught:
                client.call("privatePostTradesHistory")
            assert not isinstance(caught.value, NonceError)
    connect(client.raw, client.exchange.url)
    assert client.call("privatePostTradesHistory")["error"] == []
    told = client.outcomes
    assert [outcome for _, outcome in told] == [*["not_sent"] * 3, "ok"]
    nonces = {
        call.nonce for call in client.store.calls(fingerprint(client.account.key))
    }
    assert len(nonces) == len(told)


def test_a_wrong_secret_is_the_exchange_s_to_refuse(
    client: Client,
) -> None:
    """A signature that does not fit is refused once; one that cannot be made never leaves."""
    client.raw.secret = client.exchange.add_key().secret
    with pytest.raises(ccxt.ExchangeError, match="Invalid signature"):
        client.call("privatePostBalance")
    client.raw.secret = "x"  # noqa: S105 - it is none
    with pytest.raises(ValueError, match=r"base64|padding|characters"):
        client.call("privatePostBalance")
    assert len(client.arrivals) == 1
    told = [outcome for _, outcome in client.outcomes]
    assert told == ["error", "not_sent"]


@pytest.mark.parametrize("missing", ["apiKey", "secret"])
def test_missing_credentials_are_ccxt_s_own_error(
    missing: str,
    client: Client,
) -> None:
    """Without key or secret ccxt itself says so, and there is no call."""
    setattr(client.raw, missing, None)
    with pytest.raises(ccxt.AuthenticationError, match=missing):
        client.call("privatePostBalance")
    assert client.arrivals == []
    assert client.store.keys() == []


@pytest.mark.parametrize("answer", ["307", "307 to nowhere"])
def test_a_redirect_sends_the_bytes_twice(
    answer: Answer,
    client: Client,
) -> None:
    """An order that was executed and is led to be sent again is in doubt, though the second sending was refused."""
    with between(client.exchange.url, answer) as url:
        connect(client.raw, url)
        with pytest.raises(ccxt.NetworkError) as caught:
            client.call("privatePostAddOrder", LIMIT)
    assert not isinstance(caught.value, NonceError)
    assert len(client.orders) == 1
    assert client.outcomes == [("AddOrder", "unknown")]


def test_a_dripping_reply_is_cut_before_the_call_may_be_overtaken(
    client: Client,
) -> None:
    """Whatever limit the client has, a reply is cut in half the time for which a call is held, and is in doubt."""
    client.exchange.inject(DRIP)
    client.raw._gates._longest = 0.5
    client.raw.timeout = GUARD * 1000 if client.kind == "sync" else 0  # none
    with pytest.raises(ccxt.RequestTimeout, match="no whole reply within"):
        client.call("privatePostAddOrder", LIMIT)
    assert client.outcomes == [("AddOrder", "unknown")]


def test_no_text_tells_key_or_secret(
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither an error of ours nor the library's log tells the key or the secret (I11)."""
    client.exchange.raise_floor(client.account.key, by_seconds=3600)
    told: list[Any] = []
    for _ in range(2):
        with pytest.raises(ccxt.NetworkError) as caught:
            client.call("privatePostAddOrder", LIMIT)
        told += [caught.value, repr(caught.value), repr(client.raw)]
    told += [r.getMessage() for r in caplog.records if r.name == "persistent_nonce"]
    text = "\n".join(map(str, told))
    assert "is closed" in text
    for secret in client.account:
        assert secret not in text
