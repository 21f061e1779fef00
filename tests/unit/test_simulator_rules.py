"""The simulated exchange's own rules, without HTTP and on a clock that the test moves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from persistent_nonce.clock import SECOND, Clock
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.kraken import TIERS
from persistent_nonce.testing import (
    RULES,
    BadGateway,
    DelayedExecution,
    Fault,
    KrakenSimulator,
    Lockout,
    LostReply,
    ScaledClock,
    Throttled,
    Unavailable,
)
from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.request import Request, sign
from persistent_nonce.testing.visits import Visit

VECTOR_SECRET = (
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

LIMIT = {
    "ordertype": "limit",
    "type": "buy",
    "volume": "1.25",
    "pair": "XBTUSD",
    "price": "37500",
}


class Hands:
    """A clock that stands still until a test moves it."""

    scale = 1.0

    def __init__(self) -> None:
        self.now = 0

    def wall(self) -> int:
        return 1_700_000_000 * SECOND + self.now

    def mono(self) -> int:
        return self.now

    def boot(self) -> str | None:
        return None

    def forward(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)


class Client:
    """Signs and sends calls of one key, one at a time, with nonces 1, 2, 3, …."""

    def __init__(self, exchange: Exchange, *, tier: str | None = None) -> None:
        self.exchange = exchange
        self.key, self.secret = exchange.add_key(tier=tier)
        self.nonce = 0

    def request(self, method: str, nonce: object = None, **fields: str) -> Request:
        if nonce is None:
            self.nonce += 1
            nonce = self.nonce
        path = f"/0/private/{method}"
        body = urlencode({"nonce": nonce, **fields}).encode()
        return Request(
            path=path,
            body=body,
            agent="test",
            key=self.key,
            signature=sign(path, str(nonce), body, self.secret),
        )

    def arrive(self, method: str, nonce: object = None, **fields: str) -> Visit:
        return self.exchange.arrive(self.request(method, nonce, **fields))

    def send(self, request: Request) -> dict[str, Any]:
        visit = self.exchange.arrive(request)
        reply = self.exchange.execute(visit)
        self.exchange.leave(visit)
        return reply

    def ask(self, method: str, nonce: object = None, **fields: str) -> dict[str, Any]:
        return self.send(self.request(method, nonce, **fields))

    def error(self, method: str, nonce: object = None, **fields: str) -> str:
        reply = self.ask(method, nonce, **fields)
        assert len(reply["error"]) <= 1
        return reply["error"][0] if reply["error"] else ""

    def inject(
        self,
        fault: Fault,
        *,
        times: int = 1,
        method: str | None = None,
        key: str | None = None,
    ) -> None:
        self.exchange.inject(fault, times=times, method=method, key=key)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def exchange(clock: Hands) -> Exchange:
    return Exchange(clock)


@pytest.fixture
def client(exchange: Exchange) -> Client:
    return Client(exchange)


# --- the request --------------------------------------------------------------------


def test_signature_vector() -> None:
    """The signature is the one that the exchange publishes for its example."""
    path = "/0/private/AddOrder"
    signed = sign(path, "1616492376594", VECTOR_BODY, VECTOR_SECRET)
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
        (b"", ""),
        (b"nonce=1&nonce=2", ""),
        (b"nonce", ""),
        (b"nonce=\xff", ""),
        (b'{"nonce": 1, "nonce": 2}', "application/json"),
        (b"[1]", "application/json"),
        (b"nonce=1", "application/json"),
    ],
)
def test_ambiguous_bodies_are_refused(
    client: Client, body: bytes, content_type: str
) -> None:
    """A body that can be read in two ways, or in none, is a bad request."""
    request = Request("/0/private/Balance", body, "test", client.key, "", content_type)
    assert client.send(request)["error"] == ["EAPI:Bad request"]


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


# --- nonces -------------------------------------------------------------------------


def test_only_a_greater_nonce_is_accepted(client: Client) -> None:
    """A nonce is held against the last accepted one, not against the clock."""
    for nonce, expected in (
        (5, ""),
        (5, "EAPI:Invalid nonce"),
        (4, "EAPI:Invalid nonce"),
        (6, ""),
        (2**62, ""),
        (7, "EAPI:Invalid nonce"),
        (2**62 + 1, ""),
    ):
        assert (nonce, client.error("Balance", nonce)) == (nonce, expected)
    stats = client.exchange.stats(client.key)
    assert (stats.requests, stats.accepted, stats.refused_nonce) == (7, 4, 3)
    assert stats.nonce == 2**62 + 1


@pytest.mark.parametrize("nonce", ["", "-1", "1.5", "x", "¹", 2**63, "9" * 5000])
def test_what_is_no_nonce(client: Client, nonce: object) -> None:
    """What is no whole number up to 2**63 - 1 is an invalid nonce."""
    assert client.error("Balance", nonce) == "EAPI:Invalid nonce"
    assert client.exchange.stats(client.key).arrivals[0].nonce is None


def test_the_greatest_nonce_is_the_last(client: Client) -> None:
    """2**63 - 1 is accepted, and nothing after it."""
    assert client.error("Balance", 2**63 - 1) == ""
    assert client.error("Balance", 2**63 - 1) == "EAPI:Invalid nonce"


def test_keys_do_not_share_nonces(client: Client) -> None:
    """One key's nonce leaves another key's floor alone."""
    other = Client(client.exchange)
    assert client.error("Balance", 1000) == ""
    assert other.error("Balance", 1) == ""


@pytest.mark.parametrize("relaxed", [False, True])
def test_nonce_window(clock: Hands, *, relaxed: bool) -> None:
    """Within the window a lower nonce is accepted, a used one only if relaxed."""
    relax = {"used_nonce"} if relaxed else set()
    client = Client(Exchange(clock, nonce_window=10, relax=relax))
    used = "" if relaxed else "EAPI:Invalid nonce"
    for nonce, expected in (
        (100, ""),
        (90, "EAPI:Invalid nonce"),
        (91, ""),
        (100, used),
        (91, used),
        (101, ""),
        (91, "EAPI:Invalid nonce"),
    ):
        assert (nonce, client.error("Balance", nonce)) == (nonce, expected)
    assert client.exchange.stats(client.key).nonce == 101


def test_foreign_program_raises_the_floor(client: Client, clock: Hands) -> None:
    """A foreign nonce shuts out what is not above it, and never lowers the floor."""

    def foreign(**given: Any) -> int:
        wanted = {"to": None, "by_seconds": None, "unit": "ms", **given}
        return client.exchange.raise_floor(client.key, **wanted)

    assert foreign(to=50) == 50
    assert foreign(to=20) == 50
    assert client.error("Balance", 50) == "EAPI:Invalid nonce"
    assert client.error("Balance", 51) == ""
    assert foreign(by_seconds=45) == (clock.wall() + 45 * SECOND) // 1_000_000
    assert foreign(by_seconds=1, unit="ns") == clock.wall() + SECOND
    for wrong in ({}, {"to": 1, "by_seconds": 1.0}, {"to": 2**63}, {"to": -1}):
        with pytest.raises(ConfigurationError):
            foreign(**wrong)


def test_key_info_tells_the_nonce(client: Client) -> None:
    """GetApiKeyInfo tells the floor, its own nonce included, as text."""
    info = client.ask("GetApiKeyInfo", 2**60 + 1)["result"]
    assert (info["nonce"], info["nonceWindow"]) == (str(2**60 + 1), 0)
    assert info["lastUsed"] == "1700000000"


# --- counter ------------------------------------------------------------------------


@pytest.mark.parametrize("tier", list(TIERS))
def test_counter_of_each_tier(clock: Hands, tier: str) -> None:
    """A tier lets its maximum through at once, then one call per decayed unit."""
    client = Client(Exchange(clock, tier=tier))
    maximum, decay = TIERS[tier].maximum, TIERS[tier].decay
    assert [client.error("Balance") for _ in range(maximum)] == [""] * maximum
    clock.forward(0.99 / decay)
    assert client.error("Balance") == "EAPI:Rate limit exceeded"
    clock.forward(1.02 / decay)  # the refused call counted too
    assert client.error("Balance") == ""
    assert client.error("Balance") == "EAPI:Rate limit exceeded"
    assert client.exchange.stats(client.key).rate_limited == 2


def test_costs_differ_and_keys_have_counters_of_their_own(exchange: Exchange) -> None:
    """History costs 2, orders cost nothing, and another key has its own counter."""
    client, other = Client(exchange), Client(exchange, tier="pro")
    assert [client.error("Ledgers") for _ in range(7)] == [""] * 7
    assert client.error("Ledgers") == "EAPI:Rate limit exceeded"
    assert client.error("AddOrder", **LIMIT) == ""
    assert [other.error("TradesHistory") for _ in range(10)] == [""] * 10
    assert other.error("Balance") == "EAPI:Rate limit exceeded"


def test_failed_calls_count(clock: Hands) -> None:
    """A refused nonce uses up as much of the counter as a call that succeeds."""
    client = Client(Exchange(clock, lockout_after=99))
    client.ask("Balance", 1)
    for _ in range(14):
        assert client.error("Balance", 1) == "EAPI:Invalid nonce"
    assert client.error("Balance", 2) == "EAPI:Rate limit exceeded"


def test_hammering_is_forgotten_when_it_stops(client: Client, clock: Hands) -> None:
    """Refused calls keep the counter full, but do not pile up above it."""
    for _ in range(200):
        client.ask("Balance")
    clock.forward(2.01 / TIERS["starter"].decay)
    assert client.error("Balance") == ""


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("by", ["counter", "throttle"])
def test_nonce_of_a_limited_call(clock: Hands, by: str, *, relaxed: bool) -> None:
    """A call over the limit uses up its nonce, unless that rule is relaxed."""
    relax = {"spent_nonce"} if relaxed else set()
    client = Client(Exchange(clock, relax=relax))
    if by == "counter":
        while not client.error("Balance"):
            pass
        clock.forward(60)
        again = client.nonce
    else:
        client.inject(Throttled(5))
        client.ask("Balance", 1)
        assert client.error("Balance", 2).startswith("EService: Throttled")
        clock.forward(5)
        again = 2
    expected = "" if relaxed else "EAPI:Invalid nonce"
    assert client.error("Balance", again) == expected


# --- lockout ------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["nonce", "signature", "method"])
def test_failures_lock_the_key_out(client: Client, clock: Hands, failure: str) -> None:
    """Five failures within a minute lock the key out until 15 quiet minutes are over."""

    def fail() -> None:
        if failure == "nonce":
            assert client.error("Balance", 0) == "EAPI:Invalid nonce"
        elif failure == "method":
            assert client.error("NoSuchMethod") == "EGeneral:Unknown method"
        else:
            good = client.request("Balance")
            bad = Request(good.path, good.body, "test", good.key, "bad")
            assert client.send(bad)["error"] == ["EAPI:Invalid signature"]

    for _ in range(5):
        fail()
        clock.forward(14)
    assert client.error("Balance") == "EGeneral:Temporary lockout"
    clock.forward(899)
    assert client.error("Balance") == "EGeneral:Temporary lockout"
    clock.forward(899)  # that call began the 15 minutes anew
    assert client.error("Balance") == "EGeneral:Temporary lockout"
    clock.forward(900)
    assert client.error("Balance") == ""
    assert client.exchange.stats(client.key).locked_out == 3
    assert Client(client.exchange).error("Balance") == ""


def test_failures_far_apart_do_not_lock_out(client: Client, clock: Hands) -> None:
    """Failures count together only within a minute."""
    for _ in range(20):
        assert client.error("Balance", 0) == "EAPI:Invalid nonce"
        clock.forward(16)


# --- overlap ------------------------------------------------------------------------


def test_two_requests_in_flight(client: Client) -> None:
    """A second request before the first has left is recorded, refused and in doubt."""
    first = client.arrive("Balance")
    second = client.arrive("Balance")
    assert second.verdict == "overlap"
    assert client.exchange.execute(first)["error"] == []
    (error,) = client.exchange.execute(second)["error"]  # type: ignore[misc]
    assert error.startswith("EGeneral:Internal error")
    client.exchange.leave(first)
    client.exchange.leave(second)
    assert client.error("Balance") == ""
    stats = client.exchange.stats(client.key)
    assert (stats.overlaps, stats.max_in_flight, stats.accepted) == (1, 2, 2)
    assert [a.overlapped for a in stats.arrivals] == [(), (0,), ()]


def test_a_refused_request_is_in_flight_too(client: Client) -> None:
    """Until its reply has left, a refused request overlaps as any other."""
    client.arrive("Balance", 0)
    assert client.arrive("Balance", 1).overlapped == (0,)


def test_keys_are_in_flight_side_by_side(client: Client) -> None:
    """Requests of two keys in flight at once are no overlap, but seen together."""
    other = Client(client.exchange)
    assert client.arrive("Balance").verdict == "accepted"
    assert other.arrive("Balance").verdict == "accepted"
    assert client.exchange.stats(client.key).max_in_flight == 1
    assert client.exchange.stats(None).max_in_flight == 2
    assert client.exchange.stats(None).overlaps == 0


def test_dead_clients_are_in_nobodys_way(client: Client) -> None:
    """A request whose client has gone overlaps with none, before it or after it."""
    exchange = client.exchange
    connected = {"first": True}
    first = exchange.arrive(client.request("Balance"), alive=lambda: connected["first"])
    late = exchange.arrive(client.request("Balance"), alive=lambda: False)
    assert late.verdict == "accepted"
    assert not late.overlapped
    connected["first"] = False
    assert client.arrive("Balance").verdict == "accepted"
    assert exchange.stats(client.key).overlaps == 0
    exchange.leave(first)


# --- relaxing -----------------------------------------------------------------------


def violations(rule: str, exchange: Exchange) -> str:
    """Break one rule and return the error that answers it."""
    client = Client(exchange)
    good = client.request("Balance")
    match rule:
        case "user_agent":
            visit = exchange.arrive(
                Request(good.path, good.body, "", good.key, good.signature)
            )
        case "signature":
            visit = exchange.arrive(Request(good.path, good.body, "test", good.key, ""))
        case "nonce":
            client.ask("Balance", 5)
            visit = client.arrive("Balance", 5)
        case "counter":
            for _ in range(15):
                client.ask("Balance")
            visit = client.arrive("Balance")
        case "lockout":
            for _ in range(5):
                client.ask("Balance", 0)
            visit = client.arrive("Balance")
        case _:
            client.arrive("Balance")
            visit = client.arrive("Balance")
    return visit.error


@pytest.mark.parametrize("rule", sorted(RULES - {"used_nonce", "spent_nonce"}))
def test_each_rule_can_be_relaxed_alone(clock: Hands, rule: str) -> None:
    """A rule that is relaxed refuses nothing, and every other one still does."""
    for other in sorted(RULES - {"used_nonce", "spent_nonce"}):
        refused = violations(other, Exchange(clock, relax={rule})) != ""
        assert (other, refused) == (other, other != rule)


@pytest.mark.parametrize(
    "given",
    [
        {"relax": "nonce"},
        {"relax": {"nonces"}},
        {"tier": "free"},
        {"nonce_window": -1},
        {"lockout_after": 0},
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any]) -> None:
    """A setting that cannot be meant is an error in the constructor."""
    with pytest.raises(ConfigurationError):
        KrakenSimulator(**given)


# --- faults -------------------------------------------------------------------------


def test_faults_strike_in_order_and_as_often_as_ordered(client: Client) -> None:
    """A fault strikes the calls it was ordered for, and no others."""
    other = Client(client.exchange)
    client.inject(Unavailable(), times=2, method="AddOrder")
    client.inject(Unavailable(), key=other.key)
    unavailable = "EService:Unavailable"
    assert client.error("Balance") == ""
    assert client.error("AddOrder", **LIMIT) == unavailable
    assert other.error("Balance") == unavailable
    assert client.error("AddOrder", **LIMIT) == unavailable
    assert client.error("AddOrder", **LIMIT) == ""
    assert other.error("Balance") == ""
    assert len(client.exchange.orders(client.key)) == 1


def test_no_fault_is_wasted_on_a_refused_call(client: Client) -> None:
    """A call that breaks a rule leaves the fault for the next one."""
    client.inject(Unavailable())
    assert client.error("Balance", 0) == "EAPI:Invalid nonce"
    assert client.error("Balance") == "EService:Unavailable"


@pytest.mark.parametrize(
    ("fault", "executed"),
    [
        (Unavailable(), False),
        (Unavailable(executed=True), True),
        (BadGateway(), False),
        (BadGateway(520, executed=True), True),
        (LostReply(), True),
    ],
)
def test_faults_before_and_after_execution(
    client: Client, fault: Fault, *, executed: bool
) -> None:
    """A fault says whether the call that it struck was executed, and so it is."""
    client.inject(fault)
    client.ask("AddOrder", **LIMIT)
    assert bool(client.exchange.orders(client.key)) == executed
    (arrival,) = client.exchange.stats(client.key).arrivals
    assert (arrival.fault, arrival.executed) == (fault, executed)


def test_delayed_execution(client: Client, clock: Hands) -> None:
    """A delayed call is executed when its time has come, in the order of the times."""
    client.inject(DelayedExecution(30))
    client.inject(DelayedExecution(20))
    client.ask("AddOrder", **LIMIT, cl_ord_id="late")
    client.ask("AddOrder", **LIMIT, cl_ord_id="early")
    clock.forward(19.9)
    assert client.exchange.orders(client.key) == []
    clock.forward(20)
    orders = client.exchange.orders(client.key)
    assert [order.cl_ord_id for order in orders] == ["early", "late"]
    assert orders[1].opened == 1_700_000_030 * SECOND


def test_delayed_execution_comes_before_what_arrives_later(
    client: Client, clock: Hands
) -> None:
    """A cancellation after the delayed order's time finds the order."""
    client.inject(DelayedExecution(5))
    client.ask("AddOrder", **LIMIT, cl_ord_id="a")
    assert client.error("CancelOrder", cl_ord_id="a") == "EOrder:Unknown order"
    clock.forward(5)
    assert client.ask("CancelOrder", cl_ord_id="a")["result"] == {"count": 1}


def test_throttle_names_its_end(client: Client, clock: Hands) -> None:
    """A throttle refuses every call until the time in its error, for that key only."""
    clock.forward(0.5)
    client.inject(Throttled(5))
    throttled = "EService: Throttled: 1700000006"
    assert client.error("Balance") == throttled
    clock.forward(5.4)
    assert client.error("Balance") == throttled
    assert Client(client.exchange).error("Balance") == ""
    clock.forward(0.1)
    assert client.error("Balance") == ""


def test_lockout_on_demand(client: Client, clock: Hands) -> None:
    """An ordered lockout refuses the call that it strikes, and lasts 15 minutes."""
    client.inject(Lockout())
    assert client.error("Balance") == "EGeneral:Temporary lockout"
    clock.forward(899)
    assert client.error("Balance") == "EGeneral:Temporary lockout"
    clock.forward(900)
    assert client.error("Balance") == ""


def test_what_is_no_fault(client: Client) -> None:
    """A fault that cannot be meant is refused when it is ordered."""
    with pytest.raises(ConfigurationError):
        client.inject(LostReply)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        client.inject(LostReply(), times=0)
    with pytest.raises(ConfigurationError):
        client.inject(LostReply(), key="nobody")
    with pytest.raises(ConfigurationError):
        Throttled(-1)


# --- orders -------------------------------------------------------------------------


def test_order_from_placing_to_cancelling(client: Client) -> None:
    """An order is open until it is cancelled, and told in the exchange's shapes."""
    placed = client.ask("AddOrder", **LIMIT, cl_ord_id="mine")["result"]
    assert placed["descr"] == {"order": "buy 1.25 XBTUSD @ limit 37500"}
    (txid,) = placed["txid"]
    told = client.ask("OpenOrders")["result"]["open"][txid]
    assert (told["status"], told["vol"], told["cl_ord_id"]) == ("open", "1.25", "mine")
    assert told["descr"]["type"] == "buy"
    assert client.ask("ClosedOrders")["result"] == {"closed": {}, "count": 0}
    assert client.ask("CancelOrder", txid=txid)["result"] == {"count": 1}
    assert client.ask("OpenOrders")["result"] == {"open": {}}
    closed = client.ask("ClosedOrders")["result"]
    assert closed["count"] == 1
    assert closed["closed"][txid]["status"] == "canceled"
    assert client.error("CancelOrder", txid=txid) == "EOrder:Unknown order"
    json.dumps(closed)


def test_market_order_is_filled_at_once(client: Client) -> None:
    """A market order needs no price and is closed when it is placed."""
    order = {**LIMIT, "ordertype": "market"}
    del order["price"]
    (txid,) = client.ask("AddOrder", **order)["result"]["txid"]
    told = client.ask("QueryOrders", txid=txid)["result"][txid]
    assert (told["status"], told["vol_exec"]) == ("closed", "1.25")


def test_cl_ord_id_is_unique_among_open_orders_only(client: Client) -> None:
    """A client's name can be used again once its order is no longer open."""
    assert client.error("AddOrder", **LIMIT, cl_ord_id="a") == ""
    assert client.error("AddOrder", **LIMIT, cl_ord_id="a").startswith("EOrder:")
    assert Client(client.exchange).error("AddOrder", **LIMIT, cl_ord_id="a") == ""
    assert client.error("CancelOrder", cl_ord_id="a") == ""
    assert client.error("AddOrder", **LIMIT, cl_ord_id="a") == ""
    assert len(client.ask("QueryOrders", cl_ord_id="a")["result"]) == 2


def test_orders_are_found_by_userref_and_cl_ord_id(client: Client) -> None:
    """The questions about orders can be narrowed down to the client's own marks."""
    for mark in ({"userref": "7"}, {"userref": "7"}, {"cl_ord_id": "x"}, {}):
        assert client.error("AddOrder", **LIMIT, **mark) == ""
    assert len(client.ask("OpenOrders", userref="7")["result"]["open"]) == 2
    assert len(client.ask("OpenOrders", cl_ord_id="x")["result"]["open"]) == 1
    assert client.ask("OpenOrders", cl_ord_id="y")["result"] == {"open": {}}
    assert client.error("CancelOrder", txid="None") == "EOrder:Unknown order"
    assert client.ask("CancelOrder", txid="7")["result"] == {"count": 2}
    assert client.ask("ClosedOrders", userref="7")["result"]["count"] == 2
    txids = list(client.ask("OpenOrders")["result"]["open"])
    found = client.ask("QueryOrders", txid=",".join(txids))["result"]
    assert list(found) == txids
    assert len(txids) == 2


def test_closed_orders_come_in_pages(client: Client, clock: Hands) -> None:
    """ClosedOrders tells fifty at a time, the latest first, and how many there are."""
    order = {**LIMIT, "ordertype": "market"}
    for number in range(60):
        clock.forward(1)
        client.ask("AddOrder", **order, cl_ord_id=f"n{number}")
    first = client.ask("ClosedOrders")["result"]
    second = client.ask("ClosedOrders", ofs="50")["result"]
    assert (len(first["closed"]), len(second["closed"])) == (50, 10)
    assert first["count"] == second["count"] == 60
    told = [*first["closed"].values(), *second["closed"].values()]
    names = [order["cl_ord_id"] for order in told]
    assert names == [f"n{number}" for number in reversed(range(60))]


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"ordertype": ""}, "ordertype"),
        ({"ordertype": "lottery"}, "ordertype"),
        ({"type": "hold"}, "type"),
        ({"volume": "0"}, "volume"),
        ({"volume": "NaN"}, "volume"),
        ({"volume": "much"}, "volume"),
        ({"pair": ""}, "pair"),
        ({"price": ""}, "price"),
        ({"price": "-1"}, "price"),
        ({"userref": "x"}, "userref"),
        ({"cl_ord_id": "a" * 19}, "cl_ord_id"),
        ({"cl_ord_id": "a", "userref": "1"}, "cl_ord_id"),
        ({"deadline": "soon"}, "deadline"),
        ({"deadline": "2023-11-14T22:13:30"}, "deadline"),
    ],
)
def test_wrong_arguments_of_an_order(
    client: Client, changed: dict[str, str], argument: str
) -> None:
    """An order with a wrong argument is refused by the argument's name."""
    error = client.error("AddOrder", **{**LIMIT, **changed})
    assert error == f"EGeneral:Invalid arguments:{argument}"
    assert client.exchange.orders(client.key) == []


@pytest.mark.parametrize(
    "cl_ord_id",
    ["6d1b345e-2821-40e2-ad83-4ecb18a06876", "da8e4ad59b78481c93e589746b0cf91f", "a-1"],
)
def test_forms_of_a_cl_ord_id(client: Client, cl_ord_id: str) -> None:
    """A client's name for an order is a UUID or a short text."""
    assert client.error("AddOrder", **LIMIT, cl_ord_id=cl_ord_id) == ""


def test_validate_places_nothing(client: Client) -> None:
    """An order that is only to be validated is checked, described and forgotten."""
    told = client.ask("AddOrder", **LIMIT, validate="true")["result"]
    assert told == {"descr": {"order": "buy 1.25 XBTUSD @ limit 37500"}}
    assert client.error("AddOrder", validate="true").startswith("EGeneral:Invalid")
    assert client.exchange.orders(client.key) == []


def deadline(client: Client, clock: Hands, seconds: float) -> str:
    """Place an order whose deadline lies so far ahead and return the error."""
    moment = datetime.fromtimestamp(clock.wall() / SECOND + seconds, UTC)
    text = moment.isoformat().replace("+00:00", "Z")
    return client.error("AddOrder", **LIMIT, deadline=text)


def test_deadline_lies_within_its_range(client: Client, clock: Hands) -> None:
    """A deadline is refused unless it lies 2 to 60 seconds ahead."""
    for seconds, good in ((1, False), (2, True), (60, True), (61, False)):
        assert (seconds, deadline(client, clock, seconds) == "") == (seconds, good)


def test_order_delayed_past_its_deadline(client: Client, clock: Hands) -> None:
    """An order whose deadline has passed when its time comes is not executed."""
    client.inject(DelayedExecution(30), times=2)
    deadline(client, clock, 29)
    deadline(client, clock, 31)
    clock.forward(60)
    assert len(client.exchange.orders(client.key)) == 1


def test_deadline_passes_between_arrival_and_execution(
    client: Client, clock: Hands
) -> None:
    """A deadline that passes while the request waits is answered as elapsed."""
    text = datetime.fromtimestamp(clock.wall() // SECOND + 2, UTC).isoformat()
    visit = client.arrive("AddOrder", **LIMIT, deadline=text)
    clock.forward(3)
    reply = client.exchange.execute(visit)
    assert reply["error"] == ["EService:Deadline elapsed"]


def test_the_other_methods_answer(client: Client) -> None:
    """Every method of the list answers with a result."""
    assert client.ask("Balance")["result"]["XXBT"]
    assert client.ask("Ledgers")["result"] == {"ledger": {}, "count": 0}
    assert client.ask("TradesHistory")["result"] == {"trades": {}, "count": 0}
    assert client.ask("GetWebSocketsToken")["result"]["expires"] == 900
    time_told = client.exchange.public("Time")["result"]
    assert time_told == {
        "unixtime": 1_700_000_000,
        "rfc1123": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    status = client.exchange.public("SystemStatus")["result"]
    assert status == {"status": "online", "timestamp": "2023-11-14T22:13:20Z"}
    assert client.exchange.public("Nothing")["error"] == ["EGeneral:Unknown method"]


def test_arrivals_tell_when_and_what(client: Client, clock: Hands) -> None:
    """The record has each request's time, nonce, method and verdict, in order."""
    other = Client(client.exchange)
    client.ask("Balance", 5)
    clock.forward(0.2)
    other.ask("Ledgers", 9)
    clock.forward(0.2)
    client.ask("Balance", 4)
    told = [
        (arrival.at, arrival.key, arrival.nonce, arrival.method, arrival.verdict)
        for arrival in client.exchange.stats(None).arrivals
    ]
    assert told == [
        (0, client.key, 5, "Balance", "accepted"),
        (SECOND // 5, other.key, 9, "Ledgers", "accepted"),
        (SECOND // 5 * 2, client.key, 4, "Balance", "invalid_nonce"),
    ]
    own = client.exchange.stats(client.key).arrivals
    assert [arrival.number for arrival in own] == [0, 2]


# --- the clock ----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 20, 1000])
def test_scaled_clock_runs_so_many_times_as_fast(scale: int) -> None:
    """The monotonic reading is the machine's times the scale, exactly."""
    clock: Clock = ScaledClock(scale)
    before = time.monotonic_ns()
    reading = clock.mono()
    assert before * scale <= reading <= time.monotonic_ns() * scale
    assert clock.scale == scale


def test_scaled_clock_s_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock advances with the scale, and a step of the machine's steps it."""
    clock = ScaledClock(20)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 7)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    assert clock.wall() == 10**18 + 7 * 19
    monkeypatch.setattr(time, "monotonic_ns", lambda: 8)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 + 1)
    assert clock.wall() == 10**18 + 7 * 19 + 20
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 - 5)
    assert clock.wall() == 10**18 + 7 * 19 + 20 - 6


def test_scaled_clock_is_the_same_in_another_process() -> None:
    """A reading in another process lies between two in this one."""
    clock = ScaledClock(20)
    program = (
        "from persistent_nonce.testing import ScaledClock as Clock\n"
        "clock = Clock(20)\n"
        "print(clock.mono(), clock.boot())"
    )
    before = clock.mono()
    told = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    assert before < int(told[0]) < clock.mono()
    assert told[1] == str(clock.boot())


@pytest.mark.parametrize("scale", [0, -1, 1.5, True, "2"])
def test_scales_that_are_none(scale: Any) -> None:
    """A scale is a whole number from 1."""
    with pytest.raises(ConfigurationError):
        ScaledClock(scale)
