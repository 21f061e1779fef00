"""How the simulated exchange reads a request and checks who sent it."""

from __future__ import annotations

import contextlib

import pytest

from persistent_nonce.testing.request import Request, sign
from tests.support import simulated
from tests.support.simulated import Client

clock, client = simulated.clock, simulated.client

#: The example in the documentation of the exchange.
VECTOR_KEY = (
    "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6"
    "F1huXg=="
)
VECTOR_BODY = (
    b"nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
)
VECTOR_SIGNATURE = (
    "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8"
    "ndwLUQ=="
)


def test_signature_vector() -> None:
    """The signature is the one that the exchange publishes for its example."""
    path = "/0/private/AddOrder"
    signed = sign(path, "1616492376594", VECTOR_BODY, VECTOR_KEY)
    assert signed == VECTOR_SIGNATURE


def test_json_and_form_bodies_say_the_same() -> None:
    """Fields are read from a form and from JSON, a number as it was written."""
    form = Request("/0/private/AddOrder", b"nonce=9223372036854775807&price=1.10")
    text = b'{"nonce": 9223372036854775807, "price": 1.10}'
    as_json = Request(form.path, text, content_type="Application/JSON; charset=utf-8")
    expected = {"nonce": "9223372036854775807", "price": "1.10"}
    assert form.fields() == as_json.fields() == expected


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"nonce=1&nonce=2", ""),
        (b"nonce", ""),
        (b"nonce=\xff", ""),
        (b"nonce=%FF", ""),
        (b'{"nonce": 1, "nonce": 2}', "application/json"),
        (b"[1]", "application/json"),
        (b"nonce=1", "application/json"),
        (b'{"nonce": 1, "volume": NaN}', "application/json"),
        (b'{"nonce": 1, "orders": [{"a": 1, "a": 2}]}', "application/json"),
        (b'{"nonce": "\\ud800"}', "application/json"),
        (b'{"nonce": 1, "orders": ["\\ud800"]}', "application/json"),
        (b'{"orders":' + b"[" * 100_000, "application/json"),
    ],
)
def test_ambiguous_bodies_are_refused(
    client: Client, body: bytes, content_type: str
) -> None:
    """A body that can be read in two ways, or in none, is a bad request."""
    request = Request("/0/private/Balance", body, "test", client.key, "", content_type)
    assert client.send(request)["error"] == ["EAPI:Bad request"]


def test_depth_of_a_body() -> None:
    """However deep a body is nested, it is read or refused, also at the very limit."""
    read = 0
    for depth in range(1, 1100):
        body = b'{"orders":' + b"[" * depth + b"]" * depth + b"}"
        with contextlib.suppress(ValueError):
            Request("/0/private/X", body, content_type="application/json").fields()
            read += 1
    assert 0 < read < 1099


def test_json_call_is_signed_over_its_raw_bytes(client: Client) -> None:
    """A JSON body is accepted as it was signed, and not with a space more."""
    body, path = b'{ "nonce":7 }', "/0/private/Balance"
    signature = sign(path, "7", body, client.secret)
    for sent, expected in (
        (body + b" ", ["EAPI:Invalid signature"]),
        (body, []),
    ):
        request = Request(path, sent, "test", client.key, signature, "application/json")
        assert client.send(request)["error"] == expected


def test_signature_of_another_secret_or_path(client: Client) -> None:
    """A signature made with another key's secret or for another method is refused."""
    good = client.request("Balance")
    other = Client(client.exchange)
    wrong_path = Request(
        "/0/private/Ledgers", good.body, "test", good.key, good.signature
    )
    wrong_key = Request(good.path, good.body, "test", other.key, good.signature)
    garbled = Request(good.path, good.body, "test", good.key, "ä")
    for request in (wrong_path, wrong_key, garbled):
        assert client.send(request)["error"] == ["EAPI:Invalid signature"]
    assert client.exchange.stats(None).bad_signature == 3
    assert client.send(good)["error"] == []


def test_unknown_key_and_missing_user_agent(client: Client) -> None:
    """A request without a known key, or without a User-Agent, is refused."""
    good = client.request("Balance")
    nobody = Request(good.path, good.body, "test", "bm9ib2R5", good.signature)
    anonymous = Request(good.path, good.body, "", good.key, good.signature)
    assert client.send(nobody)["error"] == ["EAPI:Invalid key"]
    assert client.send(anonymous)["error"] == ["EGeneral:Permission denied"]
    assert client.send(good)["error"] == []
