"""Clients of other packages at a simulated exchange, as they are and on a key of their own.

A test module has the fixtures below by giving them its own names, as in
`exchange, account = packages.exchange, packages.account`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import krakenex
import pytest

from persistent_nonce.testing import Credentials, KrakenSimulator

__all__ = [
    "API",
    "account",
    "ccxt_client",
    "check_calls",
    "client",
    "exchange",
    "krakenex_client",
    "result",
    "sdk_client",
]

#: Plain krakenex, which has no annotations.
API: Any = krakenex.API


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything and answers at once."""
    with KrakenSimulator(latency=0) as simulator:
        yield simulator


@pytest.fixture
def account(exchange: KrakenSimulator) -> Credentials:
    """Return a fresh key of that exchange."""
    return exchange.add_key()


def ccxt_client(kind: Any, exchange: KrakenSimulator, account: Credentials) -> Any:
    """Return a client of ccxt that does not wait between calls: the exchange counts."""
    return kind(
        {
            "apiKey": account.key,
            "secret": account.secret,
            "enableRateLimit": False,
            "urls": {"api": {"public": exchange.url, "private": exchange.url}},
        }
    )


def sdk_client(kind: Any, exchange: KrakenSimulator, account: Credentials) -> Any:
    """Return a client of the SDK."""
    return kind(key=account.key, secret=account.secret, url=exchange.url)


def krakenex_client(exchange: KrakenSimulator, account: Credentials) -> Any:
    """Return a plain krakenex client that counts its nonces up from 1."""
    made = API(account.key, account.secret)
    made.uri = exchange.url
    made._nonce = itertools.count(1).__next__
    return made


@pytest.fixture
def client(exchange: KrakenSimulator, account: Credentials) -> Iterator[Any]:
    """Return a plain krakenex client of the exchange."""
    plain = krakenex_client(exchange, account)
    yield plain
    plain.close()


async def result(returned: Any) -> Any:
    """Return what a client of either sort returned, after waiting for it if need be."""
    return await returned if inspect.isawaitable(returned) else returned


def check_calls(
    exchange: KrakenSimulator, account: Credentials, methods: list[str]
) -> None:
    """Check that these calls arrived, and that each kept every rule."""
    stats = exchange.stats(account.key)
    assert [arrival.method for arrival in stats.arrivals] == methods
    assert (stats.accepted, stats.overlaps) == (len(methods), 0)
