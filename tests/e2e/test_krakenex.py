"""krakenex bots on shared keys of the simulated exchange: its own counters are the judge."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.bots import Bot, Job
from persistent_nonce.crew import Crew
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.testing import (
    Arrival,
    Credentials,
    DrippingReply,
    KrakenSimulator,
    LostReply,
    ScaledClock,
)
from tests.support import trading
from tests.support.processes import Children
from tests.support.simulated import LIMIT
from tests.support.trading import Aside, client, outcomes, until

SCALE: Final = 20
PROCESSES: Final = 4
CALLS: Final = 100

#: A read limit in real seconds that also keeps a call from being overtaken at any scale used here.
LONG: Final = 3_000.0

REFUSED: Final = {"error": ["EAPI:Invalid nonce"]}


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=SCALE, latency=0.002) as simulator:
        yield simulator


account, store = trading.account, trading.store


def check_replies(crew: Crew, keys: int) -> None:
    """Check that each reply is as krakenex gives it: that of the method called, without an error."""
    shapes = {
        "AddOrder": {"descr", "txid"},
        "CancelOrder": {"count"},
        "Balance": {"ZUSD", "XXBT"},
        "OpenOrders": {"open"},
        "ClosedOrders": {"closed", "count"},
        "TradesHistory": {"trades", "count"},
    }
    replies = crew.replies()
    for done in replies:
        assert done.reply["error"] == []
        assert set(done.reply["result"]) == shapes[done.method]
    calls = Counter(done.place for done in replies)
    assert calls == dict.fromkeys(range(keys), PROCESSES * CALLS)
    assert {done.method for done in replies} == set(shapes)


def check_arrivals(arrivals: list[Arrival]) -> None:
    """Check that all were accepted, one at a time, in the order of their nonces (I1, I2, I5, I6)."""
    assert {arrival.verdict for arrival in arrivals} == {"accepted"}
    numbers = {arrival.number for arrival in arrivals}
    assert [a for a in arrivals if numbers & {*a.overlapped}] == []
    nonces = [arrival.nonce for arrival in arrivals if arrival.nonce is not None]
    assert len(nonces) == len(arrivals)
    assert all(one < other for one, other in itertools.pairwise(nonces))


def test_bots_on_two_keys_with_one_killed_in_mid_call(
    exchange: KrakenSimulator, store: SQLiteStore, tmp_path: Path
) -> None:
    """4 processes × 2 keys × 100 calls, one process killed in mid-call and replaced: no refusal of any kind (I3)."""
    tier = "intermediate"  # whose counter holds the bots up
    keys = [exchange.add_key(tier=tier), exchange.add_key(tier=tier)]
    calls = [CALLS] * len(keys)
    job = Job(url=exchange.url, keys=keys, calls=calls, scale=SCALE, tier=tier)
    with Crew(exchange, job, count=PROCESSES, directory=tmp_path, store=store) as crew:
        whole = PROCESSES * CALLS * len(keys)
        assert crew.work(lambda _: None, patience=100, kill_after=whole // 3)
        check_replies(crew, len(keys))
        killed = crew.killed
    assert killed is not None
    for place, (key, _) in enumerate(keys):
        arrivals = crew.arrivals(place)
        check_arrivals(arrivals)
        records = store.calls(fingerprint(key), limit=10_000)
        cut = [record for record in records if record.outcome != "ok"]
        assert {record.outcome for record in cut} <= {"interrupted"}
        assert {pid_of(record.session) for record in cut} <= {killed.process.pid}
        assert len(cut) <= 1
        answered = {record.nonce for record in records if record.outcome == "ok"}
        assert answered == {arrival.nonce for arrival in arrivals}
    (cut_call,) = (
        record
        for record in store.calls(fingerprint(keys[0].key), limit=10_000)
        if record.outcome == "interrupted"
    )
    (slow,) = (a for a in exchange.stats(keys[0].key).arrivals if a.fault is not None)
    assert (cut_call.method, cut_call.nonce) == ("AddOrder", slow.nonce)
    assert slow.executed  # in doubt indeed


def test_the_same_bots_with_plain_krakenex_are_refused(
    exchange: KrakenSimulator, tmp_path: Path
) -> None:
    """Without the library the bots' nonces collide, and the key is locked out."""
    account = exchange.add_key()
    job = Job(
        url=exchange.url, keys=[account], calls=[CALLS // 2], scale=SCALE, beat=0.02
    )
    with Crew(exchange, job, count=PROCESSES, directory=tmp_path) as crew:
        assert crew.work(lambda _: None, patience=100)
        errors = [done.reply["error"] for done in crew.replies()]
    stats = exchange.stats(account.key)
    assert stats.refused_nonce > 0
    assert errors.count(REFUSED["error"]) == stats.refused_nonce
    assert stats.locked_out > 0


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(),
    reason="the bots are looked at in /proc, which this system does not have",
)
def test_a_bot_s_key_and_secret_are_in_no_list_of_processes(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore, tmp_path: Path
) -> None:
    """Neither the arguments nor the environment of a bot tell the key or the secret, nor does a file (I11)."""
    job = Job(url=exchange.url, keys=[account], calls=[10], scale=SCALE)
    with Crew(exchange, job, count=2, directory=tmp_path, store=store) as crew:
        seen = b""
        for bot in crew._bots:
            proc = Path(f"/proc/{bot.process.pid}")
            seen += (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        assert b"persistent_nonce.bots" in seen
        assert crew.work(lambda _: None, patience=100)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    seen += b"".join(path.read_bytes() for path in files)
    assert fingerprint(account.key).encode() in seen
    for secret in account:
        assert secret.encode() not in seen


def test_a_bot_ends_when_its_starter_has_gone(tmp_path: Path) -> None:
    """A bot that was never told to begin ends when its standard input does."""
    job = Job(url="http://127.0.0.1:9", keys=[("k", "s")], calls=[1], scale=1)
    bot = Bot(job, tmp_path / "bot.log")
    try:
        bot.await_ready()
        assert bot.process.stdin is not None
        bot.process.stdin.close()
        assert bot.process.wait(60) == 0
    finally:
        bot.end()


def test_waiting_calls_go_by_priority(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """Of the calls that wait, cancelling ones go first, then placing ones, then reads; each kind in order (I7)."""
    reads, places = ["Balance", "OpenOrders", "Ledgers"], ["AddOrder", "AddOrder"]
    cancels = ["CancelOrder", "CancelOrder"]
    methods = [
        reads[0],
        places[0],
        reads[1],
        cancels[0],
        places[1],
        reads[2],
        cancels[1],
    ]
    api = client(exchange, account, store, tier="pro")

    def waiting(count: int) -> bool:
        return len(store.read(fingerprint(account.key)).queue) == count

    with CallGate(store, account.key).call("holds the key") as held:
        calls = []
        for number, method in enumerate(methods, 1):
            data = {"txid": "none"} if method == "CancelOrder" else LIMIT
            calls.append(Aside(partial(api.query_private, method, data)))
            until(partial(waiting, number), f"{method} waits")
        held.not_sent()
    for call in calls:
        call.result()
    arrived = [arrival.method for arrival in exchange.stats(account.key).arrivals]
    assert arrived == [*cancels, *places, *reads]


@pytest.mark.parametrize(
    ("ahead", "refusals", "scale"), [(45.0, 1, 5), (300.0, 2, 20)], ids=str
)
def test_a_floor_raised_by_a_foreign_program_is_healed(
    ahead: float, refusals: int, scale: int, tmp_path: Path
) -> None:
    """A floor 45 s ahead costs one refusal, one 5 min ahead two; then all goes on, for everybody."""
    with (
        KrakenSimulator(time_scale=scale, latency=0) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
    ):
        account = exchange.add_key()
        api = client(exchange, account, store, timeout=LONG)
        other = client(exchange, account, store, timeout=LONG)
        api.query_private("Balance")
        exchange.raise_floor(account.key, by_seconds=ahead)
        assert api.query_private("AddOrder", LIMIT)["error"] == []
        assert other.query_private("Balance")["error"] == []
        stats = exchange.stats(account.key)
        assert stats.refused_nonce == refusals
        assert stats.requests == 4 + refusals  # and one GetApiKeyInfo
        assert len(exchange.orders(account.key)) == 1
        assert store.read(fingerprint(account.key)).refusals == 0


def test_when_attempts_run_out_the_key_is_closed_for_all_processes(
    tmp_path: Path,
) -> None:
    """A floor an hour ahead: three refusals, krakenex's own reply, then every process fails unsent."""
    with (
        KrakenSimulator(time_scale=100, latency=0) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
        Children() as children,
    ):
        account = exchange.add_key()
        api = client(exchange, account, store, timeout=LONG)
        exchange.raise_floor(account.key, by_seconds=3600)
        assert api.query_private("AddOrder", LIMIT) == REFUSED
        with pytest.raises(KeyClosedError, match="3 nonces in a row"):
            api.query_private("Balance")
        told = children.call(call_once, store.path, exchange.url, *account).result()
        assert told == ["KeyClosedError", True]
        assert exchange.stats(account.key).requests == 3
        assert [o for _, o in outcomes(store, account.key)] == ["invalid_nonce"] * 3


def call_once(path: str, url: str, key: str, secret: str) -> list[Any]:
    """Make one call in a process of its own; return the name of its error, and whether krakenex's users know it."""
    with SQLiteStore(path, clock=ScaledClock(100)) as store:
        api = API(key, secret, store=store)
        api.uri = url
        try:
            api.query_private("Balance")
        except Exception as error:  # noqa: BLE001 - told to the test
            return [type(error).__name__, isinstance(error, requests.ConnectTimeout)]
    return ["none", False]


@pytest.mark.parametrize(
    ("method", "recorded"), [("AddOrder", True), ("Balance", False)]
)
def test_a_call_that_changes_something_is_on_record_while_in_flight(
    method: str,
    recorded: bool,
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
) -> None:
    """Other processes see an order in flight in the record of calls before its reply; a read needs no record."""
    exchange.inject(DrippingReply(interval=0.01), method=method)
    api = client(exchange, account, store)
    call = Aside(lambda: api.query_private(method, LIMIT))
    until(lambda: exchange.stats(account.key).requests, "the request")
    running = store.read(fingerprint(account.key)).running
    records = store.calls(fingerprint(account.key))
    assert call.result()["error"] == []
    assert running is not None
    nonce = exchange.stats(account.key).nonce
    assert (running.method, running.nonce) == (method, nonce)
    expected = [(method, nonce, "in_flight")] if recorded else []
    assert [(r.method, r.nonce, r.outcome) for r in records] == expected
    assert outcomes(store, account.key) == [(method, "ok")]


def test_a_holder_that_hangs_is_overtaken(tmp_path: Path) -> None:
    """Past its time a call is overtaken and recorded as unknown; its late reply reaches its caller, and the record."""
    with (
        KrakenSimulator(time_scale=1000, latency=0, relax=["overlap"]) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
    ):
        account = exchange.add_key()
        exchange.inject(DrippingReply(interval=0.02), method="AddOrder")
        hanging = client(exchange, account, store)  # 300 s of its clock at the most
        slow = Aside(lambda: hanging.query_private("AddOrder", LIMIT))
        until(lambda: exchange.stats(account.key).requests, "the request")
        other = client(exchange, account, store, timeout=LONG)
        assert other.query_private("Balance")["error"] == []
        before = outcomes(store, account.key)
        overtaken = not slow.done
        assert slow.result()["result"]["txid"]
        assert overtaken
        assert before == [("AddOrder", "unknown"), ("Balance", "ok")]
        assert outcomes(store, account.key) == [("AddOrder", "ok"), ("Balance", "ok")]
        first, second = exchange.stats(account.key).arrivals
        assert first.nonce is not None
        assert second.nonce is not None
        assert first.nonce < second.nonce


def test_a_process_s_own_hanging_call_holds_up_its_key_alone(
    exchange: KrakenSimulator, store: SQLiteStore
) -> None:
    """While a call of one key hangs, those of another key go on."""
    one, other = exchange.add_key(), exchange.add_key()
    exchange.inject(LostReply(after=3600), key=one.key)
    api = client(exchange, one, store, timeout=LONG)
    hanging = Aside(lambda: api.query_private("Balance"))
    until(lambda: exchange.stats(one.key).requests, "the request")
    assert client(exchange, other, store).query_private("Balance")["error"] == []
    assert not hanging.done
    exchange.close()
    with pytest.raises(OSError, match=r"aborted|reset"):
        hanging.result()
