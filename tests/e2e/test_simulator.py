"""The simulated exchange over real HTTP, with plain krakenex and with raw requests."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import krakenex
import pytest
import requests

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DelayedExecution,
    DrippingReply,
    KrakenSimulator,
    Lockout,
    LostReply,
    ScaledClock,
    Throttled,
    Unavailable,
)
from persistent_nonce.testing.request import sign
from persistent_nonce.testing.server import _Handler
from persistent_nonce.testing.visits import Visit

#: Plain krakenex, which has no annotations.
API: Any = krakenex.API

ORDER = {
    "ordertype": "limit",
    "type": "buy",
    "volume": "1.25",
    "pair": "XBTUSD",
    "price": "37500",
}

#: A fault that holds a call until the simulator closes: no test waits for its end.
HANG = LostReply(after=3600)

#: A client that sends one call and waits for the reply in a process of its own.
BOT = """
import sys, krakenex
url, key, secret = sys.argv[1:]
client = krakenex.API(key, secret)
client.uri = url
client.query_private("Balance")
"""


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything and answers at once."""
    with KrakenSimulator(latency=0) as simulator:
        yield simulator


@pytest.fixture
def account(exchange: KrakenSimulator) -> Credentials:
    """Return a fresh key of that exchange."""
    return exchange.add_key()


def krakenex_client(exchange: KrakenSimulator, account: Credentials) -> Any:
    """Return a plain krakenex client that counts its nonces up from 1."""
    client = API(account.key, account.secret)
    client.uri = exchange.url
    client._nonce = itertools.count(1).__next__
    return client


@pytest.fixture
def client(exchange: KrakenSimulator, account: Credentials) -> Iterator[Any]:
    """Return a plain krakenex client of the exchange."""
    plain = krakenex_client(exchange, account)
    yield plain
    plain.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process is about to do."""
    while not condition():  # pytest's own timeout ends a wait that is in vain
        time.sleep(0.005)


def threads() -> list[str]:
    """Return the names of the simulator's threads: the listener, and its connections."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("kraken-simulator")]


def connect(exchange: KrakenSimulator) -> http.client.HTTPConnection:
    """Return a raw connection to the exchange."""
    return http.client.HTTPConnection(urlsplit(exchange.url).netloc, timeout=60)


def post(
    connection: http.client.HTTPConnection,
    account: Credentials,
    nonce: int,
    method: str = "Balance",
) -> None:
    """Send a signed call, and do not wait for its reply."""
    path, body = f"/0/private/{method}", f"nonce={nonce}".encode()
    headers = {
        "User-Agent": "test",
        "API-Key": account.key,
        "API-Sign": sign(path, str(nonce), body, account.secret),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    connection.request("POST", path, body, headers)


def test_plain_krakenex(exchange: KrakenSimulator, client: Any) -> None:
    """Plain krakenex reads, places, finds and cancels against the simulator."""
    assert client.query_private("Balance")["error"] == []
    placed = client.query_private("AddOrder", {**ORDER, "cl_ord_id": "mine"})
    (txid,) = placed["result"]["txid"]
    found = client.query_private("OpenOrders", {"cl_ord_id": "mine"})["result"]["open"]
    assert list(found) == [txid]
    cancelled = client.query_private("CancelOrder", {"txid": txid})
    assert cancelled == {"error": [], "result": {"count": 1}}
    (order,) = exchange.orders(client.key)
    assert (order.txid, order.status) == (txid, "canceled")
    stats = exchange.stats(client.key)
    assert (stats.requests, stats.accepted, stats.overlaps) == (4, 4, 0)
    assert all(arrival.completed and arrival.executed for arrival in stats.arrivals)


def test_krakenex_with_its_own_clock(
    exchange: KrakenSimulator, account: Credentials
) -> None:
    """A nonce that krakenex makes by itself is accepted, and not a second time."""
    client = API(*account)
    client.uri = exchange.url
    before = int(time.time() * 1000)
    assert client.query_private("Balance")["error"] == []
    assert before <= exchange.stats(account.key).nonce <= int(time.time() * 1000)
    client._nonce = lambda: exchange.stats(account.key).nonce
    assert client.query_private("Balance")["error"] == ["EAPI:Invalid nonce"]
    client.close()


def test_public_calls(exchange: KrakenSimulator, client: Any) -> None:
    """Public calls need no key, and leave no trace in the figures."""
    assert client.query_public("SystemStatus")["result"]["status"] == "online"
    assert client.query_public("Time")["result"]["unixtime"] > 1_600_000_000
    assert client.query_public("Nothing")["error"] == ["EGeneral:Unknown method"]
    assert exchange.stats().requests == 0


def test_json_body(exchange: KrakenSimulator, account: Credentials) -> None:
    """A call in JSON with a nonce beyond 2**53 is read to the last digit."""
    path, body = "/0/private/GetApiKeyInfo", b'{"nonce": 9007199254740993}'
    headers = {
        "API-Key": account.key,
        "API-Sign": sign(path, "9007199254740993", body, account.secret),
        "Content-Type": "application/json",
    }
    reply = requests.post(exchange.url + path, body, headers=headers, timeout=60).json()
    assert reply["error"] == []
    assert reply["result"]["nonce"] == "9007199254740993"


def test_missing_user_agent_and_tampered_body(
    exchange: KrakenSimulator, account: Credentials
) -> None:
    """Without a User-Agent, or with a body that was not signed, a call is refused."""
    path, body = "/0/private/Balance", b"nonce=1"
    headers = {
        "API-Key": account.key,
        "API-Sign": sign(path, "1", body, account.secret),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    url = exchange.url + path
    tampered = requests.post(url, body + b"&x=1", headers=headers, timeout=60)
    assert tampered.json()["error"] == ["EAPI:Invalid signature"]
    connection = connect(exchange)
    connection.putrequest("POST", path)
    for name, value in headers.items():
        connection.putheader(name, str(value))
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    told = json.load(connection.getresponse())
    assert told["error"] == ["EGeneral:Permission denied"]
    connection.close()
    assert exchange.stats(account.key).bad_signature == 1


def test_wrong_doors(exchange: KrakenSimulator) -> None:
    """A wrong path, a GET of a private call and a body without length are no calls."""
    headers = {"User-Agent": "test"}
    for verb, path, status in (
        ("POST", "/1/private/Balance", 404),
        ("POST", "/0/public/Time", 404),
        ("GET", "/0/private/Balance", 403),
    ):
        connection = connect(exchange)
        connection.request(verb, path, headers=headers)
        assert (verb, path, connection.getresponse().status) == (verb, path, status)
        connection.close()
    connection = connect(exchange)
    connection.request("GET", "/0/public/Time")  # http.client sends no User-Agent
    assert connection.getresponse().status == 403
    connection.close()
    connection = connect(exchange)
    connection.putrequest("POST", "/0/private/Balance")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    assert connection.getresponse().status == 411
    connection.close()
    assert exchange.stats().requests == 0


def test_a_connection_is_kept(exchange: KrakenSimulator, account: Credentials) -> None:
    """Calls follow each other on one connection."""
    connection = connect(exchange)
    post(connection, account, 1)
    assert connection.getresponse().read()
    first = connection.sock
    post(connection, account, 2)
    assert connection.getresponse().read()
    assert connection.sock is first is not None
    connection.close()


def test_half_a_request_is_none(exchange: KrakenSimulator) -> None:
    """A client that dies before its request is complete leaves no trace."""
    host, port = urlsplit(exchange.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            b"POST /0/private/Balance HTTP/1.1\r\nContent-Length: 99\r\n\r\nno"
        )
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    assert exchange.stats().requests == 0


# Faults


def test_lost_reply(exchange: KrakenSimulator, client: Any) -> None:
    """A call whose reply is lost was executed, and its record says so."""
    exchange.inject(LostReply(), method="AddOrder")
    with pytest.raises(requests.ConnectionError):
        client.query_private("AddOrder", dict(ORDER))
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
    until(lambda: len(threads()) == 1)
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
    until(lambda: exchange.stats(account.key).requests == 1)
    connection.close()
    left.set()
    until(lambda: len(threads()) == 1)
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
        client.query_private("AddOrder", dict(ORDER))
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
            client.query_private("AddOrder", dict(ORDER))
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


# Flights


def test_overlap_is_seen_and_refused(
    exchange: KrakenSimulator, account: Credentials
) -> None:
    """A second request while the first is unanswered is recorded and refused."""
    exchange.inject(HANG)
    first, second = connect(exchange), connect(exchange)
    post(first, account, 1)
    until(lambda: exchange.stats(account.key).requests == 1)
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
    until(lambda: exchange.stats(one.key).requests == 1)
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
                errors += client.query_private("AddOrder", dict(ORDER))["error"]
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
    until(lambda: exchange.stats(account.key).requests == 1 or bot.poll() is not None)
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


# Running it


def test_no_thread_is_left(exchange: KrakenSimulator, account: Credentials) -> None:
    """Closing ends every thread, also those of idle and of hanging connections."""
    exchange.inject(HANG, method="Ledgers")
    idle, hanging = connect(exchange), connect(exchange)
    post(idle, account, 1)
    idle.getresponse().read()
    post(hanging, account, 2, "Ledgers")
    until(lambda: exchange.stats(account.key).requests == 2)
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
