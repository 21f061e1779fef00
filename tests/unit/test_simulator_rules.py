"""The rules of the simulated exchange: nonces, counter, lockout and overlap."""

from __future__ import annotations

from typing import Any

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.kraken import TIERS
from persistent_nonce.testing import (
    RULES,
    KrakenSimulator,
    Throttled,
)
from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.request import Request
from tests.support import simulated
from tests.support.simulated import LIMIT, Client, Hands

clock, client = simulated.clock, simulated.client


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


def test_key_info_that_does_not_count_itself(clock: Hands) -> None:
    """Told to, GetApiKeyInfo tells the nonce and the time of the call before it, a foreign one too."""
    exchange = Exchange(clock, counts_itself=False)
    client = Client(exchange)

    def told() -> tuple[str, str]:
        info = client.ask("GetApiKeyInfo")["result"]
        return info["nonce"], info["lastUsed"]

    assert told() == ("0", "0")
    clock.forward(1)
    client.ask("Balance")
    clock.forward(1)
    assert told() == ("2", "1700000001")
    client.nonce = exchange.raise_floor(client.key, to=9, by_seconds=None, unit="ms")
    clock.forward(1)
    assert told() == ("9", "1700000002")


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


def test_costs_differ_and_keys_have_counters_of_their_own(client: Client) -> None:
    """History costs 2, orders cost nothing, and another key has its own counter."""
    other = Client(client.exchange, tier="pro")
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
    """Refused calls keep the counter above the tier, but do not pile up there."""
    for _ in range(200):
        client.ask("Balance")
    for seconds, expected in ((1.5, "EAPI:Rate limit exceeded"), (2.01, "")):
        clock.forward(seconds / TIERS["starter"].decay)
        assert client.error("Balance") == expected


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


def test_two_requests_in_flight(client: Client) -> None:
    """A second request before the first has left is recorded, refused and in doubt."""
    first = client.arrive("Balance")
    second = client.arrive("Balance")
    assert second.verdict == "overlap"
    assert client.exchange.execute(first)["error"] == []
    reply = client.exchange.execute(second)
    assert str(reply["error"]).startswith("['EGeneral:Internal error:")
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
                client.ask("NoSuchMethod")
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
