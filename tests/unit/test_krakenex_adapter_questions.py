"""What the drop-in krakenex client asks the exchange about its key and about calls in doubt."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from requests.exceptions import ConnectTimeout

from persistent_nonce import errors
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.state import fingerprint
from tests.support import wired
from tests.support.clocks import StillClock
from tests.support.wire import KEY, REFUSED, SECRET, Wire, ok, reply
from tests.support.wired import Spied, close_key, connect, outcomes

clock, store = wired.clock, wired.store
wire, client, homeless = wired.wire, wired.client, wired.homeless


# --- what is asked once a refusal is healed


def test_a_healed_refusal_is_verified_once(
    client: API, store: Spied, wire: Wire
) -> None:
    """After the first success that follows refusals one GetApiKeyInfo is sent; the next calls send none."""
    told = {"nonce": "1", "nonceWindow": 5}
    wire.answers = [REFUSED, REFUSED, ok("mine"), ok(told)]
    assert client.query_private("Balance")["result"] == "mine"
    client.query_private("Balance")
    sent = [post.method for post in wire.posts]
    assert sent == ["Balance"] * 3 + ["GetApiKeyInfo", "Balance"]
    assert "5 ticks" in store.read(fingerprint(KEY)).diagnosis


def test_another_call_s_success_verifies_too(store: Spied, wire: Wire) -> None:
    """Whoever's success ends the refusals asks, though it was another client's call that was refused."""
    patient = connect(API(KEY, SECRET, store=store), wire)
    patient.query_private("Balance")
    wire.answers = [REFUSED, requests.exceptions.ReadTimeout("slow")]
    with pytest.raises(requests.exceptions.ReadTimeout):
        patient.query_private("Balance")
    other = connect(API(KEY, SECRET, store=store), wire)
    other.query_private("TradeBalance")
    sent = [post.method for post in wire.posts[3:]]
    assert sent == ["TradeBalance", "GetApiKeyInfo"]


@pytest.mark.parametrize(
    "answer",
    [
        {"error": ["EGeneral:Permission denied"]},
        {"error": ["EService:Unavailable"]},
        {"error": [], "result": {}},
        "<html>",
        reply("<html>", 502),
        requests.exceptions.ReadTimeout("slow"),
        requests.exceptions.ConnectTimeout("down"),
        RuntimeError("of a session hook"),
    ],
    ids=repr,
)
def test_a_verification_that_fails_disturbs_nobody(
    answer: Any, client: API, store: Spied, wire: Wire
) -> None:
    """Whatever becomes of the question, the caller has its own reply, and its own response on the client."""
    own = reply(ok("mine"))
    wire.answers = [REFUSED, own, answer]
    assert client.query_private("AddOrder")["result"] == "mine"
    assert client.response is own
    assert [post.method for post in wire.posts[2:]] == ["GetApiKeyInfo"]
    assert outcomes(store)[:2] == ["invalid_nonce", "ok"]
    assert not store.read(fingerprint(KEY)).closed


def test_a_refused_verification_is_not_verified(
    client: API, store: Spied, wire: Wire
) -> None:
    """A question that is refused itself is not asked again: somebody waits for the reply in hand."""
    wire.answers = [REFUSED, ok("mine"), REFUSED, ok({"nonce": "1", "nonceWindow": 0})]
    assert client.query_private("Balance")["result"] == "mine"
    sent = [post.method for post in wire.posts]
    assert sent == ["Balance"] * 2 + ["GetApiKeyInfo"]


def test_verify(client: API, store: Spied, wire: Wire) -> None:
    """The client asks about its key with a nonce of its own, and follows a higher floor."""
    wire.answers = [
        lambda post: ok({"nonce": str(post.nonce + 5_000), "nonceWindow": 0})
    ]
    findings = client.verify()
    assert [finding.about for finding in findings if finding.wrong] == ["floor"]
    client.query_private("Balance")
    first, second = wire.nonces
    assert second == first + 5_001


# --- calls in doubt


def test_only_the_caller_s_own_id_is_recorded(
    client: API, store: Spied, wire: Wire
) -> None:
    """Of a call's data nothing is kept but the id of its order (I11)."""
    data = {"pair": "XBTUSD", "volume": "1.2345", "price": 37_501, "otp": "998877"}
    client.query_private("AddOrder", {**data, "cl_ord_id": "A1"})
    client.query_private("AddOrder", {**data, "userref": 7})
    client.query_private("AddOrder", {**data, "cl_ord_id": "A2", "validate": True})
    client.query_private("QueryOrders", {"cl_ord_id": "A3", "txid": "O-998877"})
    calls = store.calls()[::-1]
    assert [c.reference for c in calls] == ["cl_ord_id=A1", "userref=7", "", ""]
    kept = repr(calls) + repr(store.read(fingerprint(KEY)))
    for value in (*data.values(), "A2", "A3"):
        assert str(value) not in kept


@pytest.mark.parametrize("id", ["a/b", "//", "=", "!~", "x" * 36])
def test_no_id_of_an_order_stands_in_its_way(
    id: str, client: API, store: Spied, wire: Wire
) -> None:
    """Whatever the exchange may take as an id is sent, and on record."""
    assert client.query_private("AddOrder", {"cl_ord_id": id}) == ok()
    assert wire.posts[0].data["cl_ord_id"] == id
    assert [call.reference for call in store.calls()] == [f"cl_ord_id={id}"]


def test_reconcile(client: API, store: Spied, wire: Wire, clock: StillClock) -> None:
    """An order in doubt is looked up through the gate, two lists and the time, and never sent again."""
    wire.answers = [reply("<html>", 502)]
    with pytest.raises(requests.exceptions.HTTPError):
        client.query_private("AddOrder", {"cl_ord_id": "A1"})
    wire.answers = [ok({"open": {}}), ok({"closed": {}, "count": 0})]
    (doubt,) = client.reconcile()
    assert doubt.outcome == "unknown"
    clock.advance(120)
    wire.answers = [ok({"open": {}}), ok({"closed": {}, "count": 0})]
    (doubt,) = client.reconcile()
    assert (doubt.outcome, doubt.cl_ord_id) == ("not_executed", "A1")
    assert client.in_doubt() == []
    sent = [post.method for post in wire.posts]
    assert sent == ["AddOrder"] + ["OpenOrders", "ClosedOrders"] * 2
    assert wire.nonces == sorted(set(wire.nonces))


@pytest.mark.parametrize(
    "told", [{"error": ["EService:Unavailable"]}, {"error": [], "result": {}}, None]
)
def test_reconcile_without_the_exchange_s_time(
    told: Any, client: API, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange that does not tell its time does not tell what became of an order."""
    wire.answers = [requests.exceptions.ReadTimeout("slow")]
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.query_private("AddOrder", {"cl_ord_id": "A1"})
    monkeypatch.setattr(wire, "get", lambda *_, **__: reply(told))
    with pytest.raises(errors.ExchangeError, match="Time"):
        client.reconcile()
    assert [doubt.outcome for doubt in client.in_doubt()] == ["unknown"]


@pytest.mark.parametrize("ask", ["verify", "reconcile"])
def test_a_question_that_was_not_sent_is_ours_and_krakenex_s(
    ask: str, client: API, store: Spied, wire: Wire
) -> None:
    """A question of a closed key is not sent: its error is a ConnectTimeout too, and nothing is settled."""
    wire.answers = [requests.exceptions.ReadTimeout("slow")]
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.query_private("AddOrder", {"cl_ord_id": "A1"})
    close_key(store)
    with pytest.raises(KeyClosedError, match="closed by another") as caught:
        getattr(client, ask)()
    assert isinstance(caught.value, ConnectTimeout)
    assert len(wire.posts) == 1
    assert outcomes(store) == ["unknown"]


@pytest.mark.parametrize("ask", ["verify", "in_doubt", "reconcile"])
def test_a_question_without_a_store_is_ours_and_krakenex_s(
    ask: str, homeless: API, wire: Wire
) -> None:
    """Where the default store cannot be opened, no question is sent, and the error is a ConnectTimeout too (I9)."""
    with pytest.raises(errors.StorePermissionError, match="not yours") as caught:
        getattr(homeless, ask)()
    assert isinstance(caught.value, ConnectTimeout)
    assert not wire.posts
