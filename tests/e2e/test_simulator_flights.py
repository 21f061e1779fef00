"""The simulated exchange over real HTTP sees which calls of a key are in flight together, and no others."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from persistent_nonce.testing import Credentials, DrippingReply, KrakenSimulator
from persistent_nonce.testing.server import _Handler
from tests.support import packages
from tests.support.packages import krakenex_client
from tests.support.raw_calls import HANG, connect, post
from tests.support.simulated import LIMIT
from tests.support.trading import until

#: A client that sends one call and waits for the reply in a process of its own.
BOT = """
import sys, krakenex
url, key, secret = sys.argv[1:]
client = krakenex.API(key, secret)
client.uri = url
client.query_private("Balance")
"""

exchange, account, client = packages.exchange, packages.account, packages.client


def test_overlap_is_seen_and_refused(
    exchange: KrakenSimulator, account: Credentials
) -> None:
    """A second request while the first is unanswered is recorded and refused."""
    exchange.inject(HANG)
    first, second = connect(exchange), connect(exchange)
    post(first, account, 1)
    until(lambda: exchange.stats(account.key).requests == 1, "the request")
    post(second, account, 2)
    (error,) = json.load(second.getresponse())["error"]
    assert error.startswith("EGeneral:Internal error")
    stats = exchange.stats(account.key)
    assert (stats.overlaps, stats.max_in_flight) == (1, 2)
    assert stats.arrivals[1].overlapped == (0,)
    first.close()
    second.close()


@pytest.mark.parametrize("dripping", [False, True])
def test_flight_ends_before_the_last_byte_leaves(
    exchange: KrakenSimulator,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    dripping: bool,
) -> None:
    """A client that has the whole reply can send its next call at once."""
    if dripping:
        exchange.inject(DrippingReply(interval=0))
    send, in_flight = _Handler._send, []

    def watched(handler: _Handler, data: bytes) -> None:
        in_flight.append(len(exchange._exchange._in_flight))
        send(handler, data)

    monkeypatch.setattr(_Handler, "_send", watched)
    assert client.query_private("Balance")["error"] == []
    assert (len(in_flight) > 1) == dripping
    assert in_flight == [1] * (len(in_flight) - 1) + [0]


def test_keys_run_side_by_side(exchange: KrakenSimulator) -> None:
    """A hanging call of one key holds up no call of another."""
    one, other = exchange.add_key(), exchange.add_key()
    exchange.inject(HANG, key=one.key)
    first, second = connect(exchange), connect(exchange)
    post(first, one, 1)
    until(lambda: exchange.stats(one.key).requests == 1, "the request")
    post(second, other, 1)
    assert json.load(second.getresponse())["error"] == []
    assert exchange.stats().max_in_flight == 2
    assert exchange.stats().overlaps == 0
    first.close()
    second.close()


def test_calls_in_turn_never_overlap(
    exchange: KrakenSimulator, account: Credentials
) -> None:
    """Threads that take turns are never accused: a reply in hand ends the flight."""
    turn, nonces = threading.Lock(), itertools.count(1)

    def work(_: int) -> list[str]:
        client = krakenex_client(exchange, account)
        client._nonce = nonces.__next__
        errors = []
        for _ in range(25):
            with turn:
                errors += client.query_private("AddOrder", dict(LIMIT))["error"]
        client.close()
        return errors

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [[]] * 8
    stats = exchange.stats(account.key)
    assert (stats.accepted, stats.overlaps, stats.max_in_flight) == (200, 0, 1)
    assert [arrival.nonce for arrival in stats.arrivals] == list(range(1, 201))
    assert all(arrival.completed for arrival in stats.arrivals)


def test_killed_client(exchange: KrakenSimulator, account: Credentials) -> None:
    """The call of a killed process stays incomplete, and is in nobody's way."""
    exchange.inject(HANG)
    bot = subprocess.Popen([sys.executable, "-c", BOT, exchange.url, *account])
    until(
        lambda: exchange.stats(account.key).requests == 1 or bot.poll() is not None,
        "the request",
    )
    bot.kill()
    assert bot.wait(60) == -signal.SIGKILL
    nonce = exchange.stats(account.key).nonce
    connection = connect(exchange)
    post(connection, account, nonce + 1)
    assert json.load(connection.getresponse())["error"] == []
    connection.close()
    stats = exchange.stats(account.key)
    assert [arrival.completed for arrival in stats.arrivals] == [False, True]
    assert (stats.accepted, stats.overlaps) == (2, 0)
