"""The exchange's limits, shared by bots in several processes: its own counters and arrivals are the judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.kraken import LOCKOUT, TIERS, cost
from persistent_nonce.state import CallRecord, fingerprint
from persistent_nonce.testing import (
    Arrival,
    Credentials,
    EngineLimit,
    KrakenSimulator,
    Lockout,
    Throttled,
)
from tests.support.paced_bots import Asked, Bot, Foreign, errors, start
from tests.support.processes import Children
from tests.support.simulated import LIMIT
from tests.support.trading import until

#: An order that is only checked, and one to cancel that is not there: neither counts.
CHECKED: Final[Asked] = ("AddOrder", {**LIMIT, "validate": "true"})
CANCELLED: Final[Asked] = ("CancelOrder", {"txid": "none"})

#: Seconds of the exchange's clock within which failures count together towards a lockout.
PERIOD: Final = 60.0


class Site(NamedTuple):
    """An exchange with a key, and the store of those who use it."""

    exchange: KrakenSimulator
    account: Credentials
    store: SQLiteStore
    children: Children

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """What arrived with the key."""
        return self.exchange.stats(self.account.key).arrivals

    def bots(self, count: int, **options: Any) -> list[Bot]:
        """Start bots that use the key."""
        return start(
            self.children, self.exchange, self.store, [self.account] * count, **options
        )

    def is_queue(self, length: int) -> bool:
        """Tell whether so many calls stand in the queue."""
        return len(self.store.read(fingerprint(self.account.key)).queue) == length


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Run an exchange with options of its own, or those that the test gives."""
    given = getattr(request, "param", {"time_scale": 20})
    options = {"latency": 0.005, "tier": "starter", **given}
    with (
        KrakenSimulator(**options) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
        Children() as children,
    ):
        yield Site(exchange, exchange.add_key(), store, children)


# --- the call counter -----------------------------------------------------------------


def after_burst(arrivals: Sequence[Arrival], tier: str) -> list[Arrival]:
    """Return the arrivals from the one that first filled the exchange's counter, as far as the library does."""
    facts, counter, last = TIERS[tier], 0.0, 0
    for place, arrival in enumerate(arrivals):
        drained = (arrival.at - last) / SECOND * facts.decay
        counter = max(0.0, counter - drained) + cost(arrival.method)
        last = arrival.at
        if counter > facts.maximum - 2:
            return list(arrivals[place:])
    raise AssertionError("the counter was never full: nobody wanted that much")


def wanted(calls: Sequence[CallRecord], since: int, until: int) -> float:
    """Return for how many of these ns there was a call to be made that counts, waiting or in flight."""
    total, reached = 0, since
    spans = [
        (call.since - call.waited, call.since + (call.took or 0))
        for call in calls
        if call.cost
    ]
    for begin, end in sorted(spans):
        begin, end = max(begin, reached), min(end, until)  # noqa: PLW2901 - what is new of it
        if begin < end:
            total += end - begin
            reached = end
    return total


def test_a_flood_uses_what_the_counter_allows_and_no_more(site: Site) -> None:
    """6 processes want all they can get of one key: no call is over the limit, and 95 % of the rate is used (I6)."""
    minutes, processes = 4, 6
    bots = site.bots(processes, tier="starter")
    end = site.exchange.clock.mono() + minutes * 60 * SECOND
    calls: list[Asked | str]
    calls = ["Balance", "Ledgers", CHECKED, "OpenOrders", "TradesHistory", CANCELLED]
    for place, bot in enumerate(bots):  # each begins with another one
        bot.repeat(*calls[place:], *calls[:place], until=end)
    told = [bot.told() for bot in bots]
    assert {error for each in told for error in errors(each)} <= {
        "EOrder:Unknown order"
    }
    assert {call.method for each in told for call in each} == {
        call if isinstance(call, str) else call[0] for call in calls
    }
    stats = site.exchange.stats(site.account.key)
    assert (stats.rate_limited, stats.accepted) == (0, stats.requests)
    assert stats.max_in_flight == 1
    counted = [a for a in stats.arrivals if cost(a.method)]
    paced = [a for a in after_burst(counted, "starter") if a.at <= end]
    first, last = paced[0], paced[-1]
    records = site.store.calls(fingerprint(site.account.key), limit=10_000)
    assert len(records) == stats.requests
    used = sum(cost(arrival.method) for arrival in paced[1:])
    asked = wanted(records, first.at, last.at) / SECOND
    assert used >= 0.95 * TIERS["starter"].decay * asked
    # That something was wanted nearly all the time is the machine's part; much less would judge nothing.
    assert asked > minutes * 60 / 2


# --- pauses that the exchange asks for ------------------------------------------------


def lock_out(site: Site) -> None:
    """Let the next call begin a lockout."""
    site.exchange.inject(Lockout())


def throttle(site: Site) -> None:
    """Let the next call be throttled, as all others for 20 s."""
    site.exchange.inject(Throttled(20.0))


def fill_the_counter(site: Site) -> None:
    """Let the next call be over the limit, since a foreign program has filled the counter."""
    foreign = Foreign(site.exchange, site.account)
    while not foreign.balance():
        pass


PAUSES: Final = [
    # Fast enough to be over soon, slow enough for a busy machine to be asked something meanwhile.
    pytest.param(
        {"time_scale": 120, "tier": "pro"},
        lock_out,
        "EGeneral:Temporary lockout",
        (LOCKOUT, LOCKOUT),
        id="lockout",
    ),
    pytest.param(
        {"time_scale": 5, "tier": "pro"},
        throttle,
        "EService: Throttled: ",
        (15.0, 21.0),
        id="throttled",
    ),
    pytest.param(
        {"time_scale": 2, "tier": "pro"},
        fill_the_counter,
        "EAPI:Rate limit exceeded",
        (10.0, 10.0),
        id="rate limit",
    ),
]


@pytest.mark.parametrize(
    ("site", "strike", "error", "lengths"), PAUSES, indirect=["site"]
)
def test_a_pause_holds_for_all_and_ends_in_order(
    site: Site, strike: Any, error: str, lengths: tuple[float, float]
) -> None:
    """No process calls during a pause; whose time is too short fails at once, unsent; the others go on in order (I7).

    The simulated exchange begins a lockout anew with every call that comes during it.
    """
    bots = site.bots(4, tier="pro")
    strike(site)
    before = len(site.arrivals)
    least, most = lengths
    short = least / 2
    (said,) = bots[0].ask("Balance").errors
    assert said.startswith(error)

    late = bots[1].ask("Balance", gate_timeout=short)
    assert late.errors == []
    assert late.raised[0] == "LockedOutError"
    assert "ConnectTimeout" in late.raised
    assert said in late.text
    assert late.took < short  # at once: what is too late need not wait until then

    methods = ["OpenOrders", "Balance", "ClosedOrders", "GetWebSocketsToken"]
    for place, method in enumerate(methods):
        bots[-place].tell(method)
        until(partial(site.is_queue, place + 1), f"{method} waits")
    state = site.store.read(fingerprint(site.account.key))
    assert state.reason == said
    assert errors([told for bot in bots for told in bot.told()]) == []

    struck, *resumed = site.arrivals[before:]
    assert [arrival.method for arrival in resumed] == methods
    assert {arrival.verdict for arrival in resumed} == {"accepted"}
    assert (resumed[0].at - struck.at) / SECOND >= least
    assert least <= (state.not_before - state.set_at) / SECOND <= most


@pytest.mark.parametrize("site", [{"time_scale": 40}], indirect=True)
def test_a_counter_that_a_foreign_program_filled_refuses_one_call(site: Site) -> None:
    """After one reply that the limit is exceeded no process is refused again, however much they want (I6)."""
    bots = site.bots(4)
    fill_the_counter(site)
    before = len(site.arrivals)
    end = site.exchange.clock.mono() + 60 * SECOND
    for bot in bots:
        bot.repeat("TradesHistory", "Balance", until=end)
    told = [each for bot in bots for each in bot.told()]
    assert errors(told) == ["EAPI:Rate limit exceeded"]
    verdicts = [arrival.verdict for arrival in site.arrivals[before:]]
    assert verdicts[0] == "rate_limited"
    assert set(verdicts[1:]) == {"accepted"}
    assert len(verdicts) > 5


def test_the_limit_of_the_trading_engine_pauses_nothing(site: Site) -> None:
    """`EOrder:Rate limit exceeded` is for its caller alone: no process waits for it, and the order is not there."""
    one, other = site.bots(2)
    site.exchange.inject(EngineLimit(), method="AddOrder")
    assert one.ask(("AddOrder", LIMIT)).errors == ["EOrder:Rate limit exceeded"]
    state = site.store.read(fingerprint(site.account.key))
    assert (state.not_before, state.reason) == (0, "")
    # What had to wait for any pause would be unsent.
    assert errors([other.ask("Balance"), one.ask(("AddOrder", LIMIT))]) == []
    assert [arrival.executed for arrival in site.arrivals] == [False, True, True]
    assert len(site.exchange.orders(site.account.key)) == 1


# --- errors that repeating makes worse ------------------------------------------------


BAD_METHOD: Final[Asked] = ("NoSuchMethod", {})
BAD_ARGUMENT: Final[Asked] = ("ClosedOrders", {"ofs": "many"})


@pytest.mark.parametrize(
    "site", [{"time_scale": 80, "tier": "pro"}], indirect=True, ids=["fast"]
)
@pytest.mark.parametrize(
    "failing", [(), (BAD_METHOD, BAD_ARGUMENT)], ids=["one", "three in turn"]
)
def test_bots_that_fail_for_ever_cause_no_lockout(
    site: Site, failing: tuple[Asked, ...]
) -> None:
    """However often bots fail, the exchange counts at most 4 failures of the key a minute, and the others go on."""
    wrong = Credentials(site.account.key, site.exchange.add_key().secret)
    accounts = [wrong, *[site.account] * 3]
    bots = start(site.children, site.exchange, site.store, accounts, tier="pro")
    end = site.exchange.clock.mono() + 200 * SECOND
    calls: list[Asked | str] = ["Balance", *failing, "Balance", "OpenOrders"]
    for bot, call in zip(bots, calls, strict=False):
        bot.repeat(call, until=end)
    good = [bot.told() for bot in bots[: len(calls)]][1 + len(failing) :]
    assert [errors(told) for told in good] == [[]] * len(good)
    assert all(len(told) > 1 for told in good)
    failed = [a for a in site.arrivals if a.verdict != "accepted"]
    kinds = {"bad_signature", "unknown_method"} if failing else {"bad_signature"}
    assert {arrival.verdict for arrival in failed} == kinds
    assert len(failed) > 4
    for first, fifth in zip(failed, failed[4:], strict=False):
        assert fifth.at - first.at > PERIOD * SECOND
