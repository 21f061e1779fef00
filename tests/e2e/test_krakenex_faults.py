"""krakenex calls that go wrong on the wire or at the exchange: what the caller gets, and what is recorded."""

from __future__ import annotations

import logging
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from persistent_nonce import SQLiteStore
from persistent_nonce.errors import NonceError
from persistent_nonce.state import fingerprint
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DelayedExecution,
    DrippingReply,
    Fault,
    KrakenSimulator,
    Lockout,
    LostReply,
    Throttled,
    Unavailable,
)
from tests.support import trading
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD, client, outcomes

ConnectionError_ = requests.exceptions.ConnectionError
HTTPError = requests.exceptions.HTTPError
ReadTimeout = requests.exceptions.ReadTimeout

#: Real seconds that a client of these tests waits for a part of a reply, where it is to wait in vain.
SHORT: Final = 0.5

#: The slowest reply: no byte until the exchange closes.
HANG: Final = LostReply(after=3600)

#: A reply that is never late with a byte, and takes seconds.
DRIP: Final = DrippingReply(interval=0.02)


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything, 20 times as fast."""
    with KrakenSimulator(time_scale=20, latency=0) as simulator:
        yield simulator


account, store = trading.account, trading.store


@pytest.mark.parametrize(
    ("fault", "error", "executed"),
    [
        (BadGateway(502), HTTPError, False),
        (BadGateway(520, executed=True), HTTPError, True),
        (DelayedExecution(seconds=0.0), HTTPError, True),
        (BadGateway(200), requests.exceptions.JSONDecodeError, False),
        (BadGateway(200, executed=True), requests.exceptions.JSONDecodeError, True),
        (LostReply(), ConnectionError_, True),
        (HANG, ReadTimeout, True),
        (DRIP, ReadTimeout, True),
    ],
    ids=str,
)
def test_a_fault_passes_unchanged_in_doubt_and_unrepeated(
    fault: Fault,
    error: type[Exception],
    executed: bool,
    exchange: KrakenSimulator,
    store: SQLiteStore,
) -> None:
    """The caller gets krakenex's own exception, the record says unknown, and the request arrived once (A31, A37)."""
    account = exchange.add_key()
    exchange.inject(fault)
    timeout = SHORT if error is ReadTimeout else GUARD
    api = client(exchange, account, store, timeout=timeout)
    begun = time.monotonic()
    with pytest.raises(error) as caught:
        api.query_private("AddOrder", LIMIT)
    assert time.monotonic() - begun < GUARD
    assert not isinstance(caught.value, NonceError)
    if isinstance(caught.value, HTTPError):
        assert caught.value.response is not None
        assert caught.value.response.status_code == getattr(fault, "status", 504)
    assert exchange.stats(account.key).requests == 1
    assert len(exchange.orders(account.key)) == executed
    assert outcomes(store, account.key) == [("AddOrder", "unknown")]
    # The next call has a connection of its own, and its turn at once.
    again = client(exchange, account, store)
    assert again.query_private("Balance")["error"] == []
    assert exchange.stats(account.key).overlaps == 0


def test_a_client_goes_on_after_a_reply_that_was_cut(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """A reply that drips is cut after twice the time limit, so that the exchange sees it; the same client goes on."""
    exchange.inject(DRIP)
    api = client(exchange, account, store, timeout=SHORT)
    api.query_public("Time")  # type: ignore[no-untyped-call]  # krakenex has no annotations
    with pytest.raises(ReadTimeout):
        api.query_private("AddOrder", LIMIT)
    assert api.query_private("Balance", timeout=GUARD)["error"] == []
    dripping, balance = exchange.stats(account.key).arrivals
    assert (dripping.completed, balance.completed) == (False, True)
    assert (balance.verdict, balance.overlapped) == ("accepted", ())


def test_without_a_connection_nothing_was_sent(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """A refused connection is krakenex's own error, recorded as not sent; its nonce is burnt, its cost given back."""
    api = client(exchange, account, store)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        api.uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for _ in range(3):
            with pytest.raises(ConnectionError_) as caught:
                api.query_private("TradesHistory")
            assert not isinstance(caught.value, NonceError)
    api.uri = exchange.url
    assert api.query_private("TradesHistory")["error"] == []
    told = outcomes(store, account.key)
    assert [outcome for _, outcome in told] == [*["not_sent"] * 3, "ok"]
    nonces = {call.nonce for call in store.calls(fingerprint(account.key))}
    assert len(nonces) == len(told)


@pytest.mark.parametrize(
    ("fault", "error", "outcome"),
    [
        (Throttled(seconds=1.0), "EService: Throttled: ", "error"),
        (Lockout(), "EGeneral:Temporary lockout", "error"),
        (Unavailable(executed=True), "EService:Unavailable", "unknown"),
    ],
    ids=str,
)
def test_only_a_refused_nonce_is_tried_again(
    fault: Fault,
    error: str,
    outcome: str,
    exchange: KrakenSimulator,
    store: SQLiteStore,
) -> None:
    """Any other error of the exchange is returned as it came, recorded, and sent once."""
    account = exchange.add_key()
    exchange.inject(fault)
    reply = client(exchange, account, store).query_private("AddOrder", LIMIT)
    assert reply["error"][0].startswith(error)
    assert exchange.stats(account.key).requests == 1
    assert outcomes(store, account.key) == [("AddOrder", outcome)]


def test_an_order_that_is_refused_is_not_sent_again(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """What the exchange says of an order is returned as it is, once."""
    api = client(exchange, account, store)
    assert api.query_private("CancelOrder", {"txid": "none"}) == {
        "error": ["EOrder:Unknown order"]
    }
    assert exchange.stats(account.key).requests == 1
    assert outcomes(store, account.key) == [("CancelOrder", "error")]


def test_a_wrong_secret_is_the_exchange_s_to_refuse(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """A signature that does not fit is refused once; one that cannot be made never leaves."""
    other = exchange.add_key()
    api = client(exchange, Credentials(account.key, other.secret), store)
    assert api.query_private("Balance") == {"error": ["EAPI:Invalid signature"]}
    api.secret = "x"  # noqa: S105 - it is none
    with pytest.raises(ValueError, match=r"base64|padding|characters"):
        api.query_private("Balance")
    assert exchange.stats(account.key).requests == 1
    told = [outcome for _, outcome in outcomes(store, account.key)]
    assert told == ["error", "not_sent"]


def test_no_secret_is_left_anywhere(
    exchange: KrakenSimulator,
    store: SQLiteStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through every fault and error: not in a file, a log at DEBUG, an error's text, a traceback (I11, A28)."""
    faults: list[Fault | None] = [
        None,
        BadGateway(502),
        BadGateway(200),
        LostReply(),
        HANG,
        DRIP,
        Unavailable(),
        Throttled(seconds=1.0),
        Lockout(),
    ]
    told: list[str] = []
    accounts = [exchange.add_key() for _ in faults]
    with caplog.at_level(logging.DEBUG):
        for fault, account in zip(faults, accounts, strict=True):
            if fault is None:  # until its key is closed
                exchange.raise_floor(account.key, by_seconds=3600)
            else:
                exchange.inject(fault)
            api = client(exchange, account, store, timeout=SHORT, gate_timeout=60.0)
            for _ in range(2):
                told += _texts(api)
            api.uri = "http://127.0.0.1:9"
            told += _texts(api)
    told.append(caplog.text)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    found = "".join(told).encode() + b"".join(path.read_bytes() for path in files)
    names = {path.name for path in files}
    assert {"nonces.db", "nonces.db-wal", "nonces.db.lock"} <= names
    assert b"is closed" in found
    for account in accounts:
        assert fingerprint(account.key).encode() in found
        for secret in account:
            assert secret.encode() not in found


def _texts(api: Any) -> list[str]:
    """Make a call, and return all texts that tell of it."""
    try:
        api.query_private("AddOrder", LIMIT)
    except Exception as error:  # noqa: BLE001 - whichever it is
        return [str(error), repr(error), "".join(traceback.format_exception(error))]
    return [repr(api), repr(api._find_gate())]
