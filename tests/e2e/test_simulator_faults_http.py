"""The faults of the simulated exchange over real HTTP: what the client sees, and what was executed."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import requests

from persistent_nonce.clock import SECOND
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DelayedExecution,
    DrippingReply,
    KrakenSimulator,
    Lockout,
    LostReply,
    Throttled,
    Unavailable,
)
from persistent_nonce.testing.visits import Visit
from tests.support import packages
from tests.support.raw_calls import HANG, connect, post, threads
from tests.support.simulated import LIMIT
from tests.support.trading import until

exchange, account, client = packages.exchange, packages.account, packages.client


def test_lost_reply(exchange: KrakenSimulator, client: Any) -> None:
    """A call whose reply is lost was executed, and its record says so."""
    exchange.inject(LostReply(), method="AddOrder")
    with pytest.raises(requests.ConnectionError):
        client.query_private("AddOrder", dict(LIMIT))
    assert len(exchange.orders(client.key)) == 1
    (arrival,) = exchange.stats(client.key).arrivals
    assert (arrival.executed, arrival.completed) == (True, False)
    assert client.query_private("Balance")["error"] == []


def test_server_that_hangs(exchange: KrakenSimulator, client: Any) -> None:
    """A client that gives up on a hanging call is in its next call's way no more."""
    exchange.inject(HANG)
    with pytest.raises(requests.ReadTimeout):
        client.query_private("Balance", timeout=(60, 0.1))
    assert client.query_private("Balance")["error"] == []
    stats = exchange.stats(client.key)
    assert [arrival.completed for arrival in stats.arrivals] == [False, True]
    assert (stats.overlaps, stats.max_in_flight) == (0, 1)


def test_dripping_reply(exchange: KrakenSimulator, client: Any) -> None:
    """A reply that drips is whole for a client that waits."""
    exchange.inject(DrippingReply(interval=0.0001))
    assert client.query_private("Balance")["result"]["XXBT"]
    assert exchange.stats(client.key).arrivals[0].completed


def test_client_that_leaves_a_dripping_reply(
    exchange: KrakenSimulator, account: Credentials, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dripping counts as in flight until the client leaves, which makes no noise."""
    exchange.inject(DrippingReply(interval=0.05))  # ten seconds in all
    leaving, second, third = (connect(exchange) for _ in range(3))
    post(leaving, account, 1)
    assert leaving.sock.recv(1) == b"H"
    post(second, account, 2)
    (error,) = json.load(second.getresponse())["error"]
    assert error.startswith("EGeneral:Internal error")
    second.close()
    leaving.close()
    post(third, account, 3)
    assert json.load(third.getresponse())["error"] == []
    third.close()
    until(lambda: len(threads()) == 1, "the connections to end")
    assert capfd.readouterr().err == ""
    stats = exchange.stats(account.key)
    assert [arrival.completed for arrival in stats.arrivals] == [False, True, True]
    assert stats.overlaps == 1


def test_client_that_leaves_before_its_reply(
    exchange: KrakenSimulator, account: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call whose client left while it was executed is executed, not completed."""
    execute, left = exchange._exchange.execute, threading.Event()

    def held(visit: Visit) -> dict[str, object]:
        assert left.wait(60)
        return execute(visit)

    monkeypatch.setattr(exchange._exchange, "execute", held)
    connection = connect(exchange)
    post(connection, account, 1)
    until(lambda: exchange.stats(account.key).requests == 1, "the request")
    connection.close()
    left.set()
    until(lambda: len(threads()) == 1, "the connections to end")
    (arrival,) = exchange.stats(account.key).arrivals
    assert (arrival.executed, arrival.completed) == (True, False)


@pytest.mark.parametrize("status", [502, 520])
@pytest.mark.parametrize("executed", [False, True])
def test_bad_gateway(
    exchange: KrakenSimulator, client: Any, status: int, *, executed: bool
) -> None:
    """A gateway's page comes before or after the execution, as ordered."""
    exchange.inject(BadGateway(status, executed=executed))
    with pytest.raises(requests.HTTPError) as caught:
        client.query_private("AddOrder", dict(LIMIT))
    assert caught.value.response is not None
    assert caught.value.response.status_code == status
    assert len(exchange.orders(client.key)) == int(executed)
    assert client.query_private("Balance")["error"] == []


def test_reply_that_does_not_parse(exchange: KrakenSimulator, client: Any) -> None:
    """A page with status 200 is no reply."""
    exchange.inject(BadGateway(200))
    with pytest.raises(requests.JSONDecodeError):
        client.query_private("Balance")


def test_delayed_execution(exchange: KrakenSimulator, client: Any) -> None:
    """A delayed call answers 504 and is executed when its time has come, not before."""
    exchange.inject(DelayedExecution(3600))
    exchange.inject(DelayedExecution(0))
    for expected in (0, 1):
        with pytest.raises(requests.HTTPError, match="504"):
            client.query_private("AddOrder", dict(LIMIT))
        assert len(exchange.orders(client.key)) == expected


def test_refusals_on_demand(exchange: KrakenSimulator, client: Any) -> None:
    """Unavailability and a lockout come as errors in the reply."""
    exchange.inject(Unavailable())
    assert client.query_private("Balance") == {"error": ["EService:Unavailable"]}
    exchange.inject(Lockout())
    for _ in range(2):
        told = client.query_private("Balance")["error"]
        assert told == ["EGeneral:Temporary lockout"]
    assert exchange.stats(client.key).locked_out == 2


def test_throttle(exchange: KrakenSimulator, client: Any) -> None:
    """A throttle names a whole second, no sooner than it was ordered for."""
    exchange.inject(Throttled(3600))
    before = exchange.clock.wall()
    (error,) = client.query_private("Balance")["error"]
    after = exchange.clock.wall()
    text, _, end = error.rpartition(" ")
    assert text == "EService: Throttled:"
    assert before <= (int(end) - 3600) * SECOND < after + SECOND
    assert client.query_private("Balance")["error"] == [error]


def test_foreign_program(exchange: KrakenSimulator, client: Any) -> None:
    """After a foreign program's greater nonce the client's own are refused."""
    assert client.query_private("Balance")["error"] == []
    floor = exchange.raise_floor(client.key, by_seconds=45)
    assert abs(floor - exchange.clock.wall() // 10**6 - 45_000) < 3_600_000
    assert client.query_private("Balance")["error"] == ["EAPI:Invalid nonce"]
    client._nonce = lambda: floor + 1
    assert client.query_private("Balance")["error"] == []
