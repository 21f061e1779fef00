"""The simulated exchange over real HTTP, with plain krakenex and raw requests: what is a call, and what is none."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import requests

from persistent_nonce.testing import Credentials, KrakenSimulator
from persistent_nonce.testing.request import sign
from tests.support import packages
from tests.support.packages import API
from tests.support.raw_calls import connect, post
from tests.support.simulated import LIMIT

exchange, account, client = packages.exchange, packages.account, packages.client


def test_plain_krakenex(exchange: KrakenSimulator, client: Any) -> None:
    """Plain krakenex reads, places, finds and cancels against the simulator."""
    assert client.query_private("Balance")["error"] == []
    placed = client.query_private("AddOrder", {**LIMIT, "cl_ord_id": "mine"})
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
