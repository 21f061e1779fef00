"""The simulated exchange starts, keeps time and ends: no thread is left, and it remembers its keys."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests

from persistent_nonce.errors import ConfigurationError
from persistent_nonce.testing import Credentials, KrakenSimulator, ScaledClock
from tests.support import packages
from tests.support.packages import krakenex_client
from tests.support.raw_calls import HANG, connect, post, threads
from tests.support.trading import until

exchange, account, client = packages.exchange, packages.account, packages.client


def test_no_thread_is_left(exchange: KrakenSimulator, account: Credentials) -> None:
    """Closing ends every thread, also those of idle and of hanging connections."""
    exchange.inject(HANG, method="Ledgers")
    idle, hanging = connect(exchange), connect(exchange)
    post(idle, account, 1)
    idle.getresponse().read()
    post(hanging, account, 2, "Ledgers")
    until(lambda: exchange.stats(account.key).requests == 2, "the requests")
    assert len(threads()) == 3
    exchange.close()
    exchange.close()
    assert threads() == []
    assert exchange.stats(account.key).requests == 2
    with pytest.raises(ConfigurationError):
        _ = exchange.url
    for connection in (idle, hanging):
        connection.close()


def test_latency_is_real_time_after_arrival(account: Credentials) -> None:
    """A request is judged when it arrives and executed no sooner than the latency."""
    with KrakenSimulator(latency=0.05, time_scale=1000) as exchange:
        client = krakenex_client(exchange, exchange.add_key())
        begin = time.monotonic_ns()
        assert client.query_private("Balance")["error"] == []
        end = time.monotonic_ns()
        client.close()
    assert end - begin >= 0.05 * 1e9
    (arrival,) = exchange.stats(client.key).arrivals
    assert begin * 1000 <= arrival.at <= end * 1000 - 0.05 * 1e12


def test_time_scale_runs_the_exchange_s_clock(account: Credentials) -> None:
    """Counters drain on the scaled clock, which a client's store can share."""
    with KrakenSimulator(latency=0, time_scale=20) as exchange:
        assert exchange.clock.scale == ScaledClock(20).scale == 20
        client = krakenex_client(exchange, exchange.add_key())
        before = ScaledClock(20).wall() // 10**9
        told = client.query_public("Time")["result"]["unixtime"]
        assert before <= told <= ScaledClock(20).wall() // 10**9
        client.close()


def test_exchange_starts_again(exchange: KrakenSimulator, client: Any) -> None:
    """Closed and started again, the exchange remembers its keys and their nonces."""
    assert client.query_private("Balance")["error"] == []
    exchange.close()
    with pytest.raises(requests.ConnectionError):
        client.query_private("Balance")
    client.uri = exchange.start().url
    client._nonce = lambda: 1
    assert client.query_private("Balance")["error"] == ["EAPI:Invalid nonce"]
