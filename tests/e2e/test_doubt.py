"""Orders that may or may not have been executed: none twice, none forgotten, each settled as the exchange has it."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from requests.adapters import HTTPAdapter

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.clock import SECOND
from persistent_nonce.commands.facts import moment
from persistent_nonce.records import in_doubt
from persistent_nonce.state import Running, fingerprint
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DelayedExecution,
    Fault,
    KrakenSimulator,
    LostReply,
    Unavailable,
)
from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.server import Server
from tests.support import databases, trading
from tests.support.doubting import Trader, hold, look
from tests.support.processes import Children
from tests.support.resending import Answer, Eager, between, eager
from tests.support.simulated import LIMIT, Hands
from tests.support.trading import GUARD, client, until

SCALE: Final = 20
PROCESSES: Final = 4
ORDERS: Final = 250

#: What leaves an order in doubt, and whether it is executed.
FAULTS: Final[dict[Fault, bool]] = {
    LostReply(): True,
    BadGateway(502, executed=True): True,
    BadGateway(502, executed=False): False,
    DelayedExecution(seconds=30.0): True,
    Unavailable(executed=True): True,
    Unavailable(executed=False): False,
}

#: No byte of a reply until the client has been killed.
HANG: Final = LostReply(after=3_600)

#: Orders between two rounds of faults; each round has every fault once, and somebody is killed.
ROUND: Final = 60


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=SCALE, latency=0.002) as simulator:
        yield simulator


account, store, children = trading.account, trading.store, databases.children


def cli(store: SQLiteStore, *arguments: str) -> str:
    """Return what a command of another process prints, in lines of any length."""
    command = [sys.executable, "-m", "persistent_nonce", *arguments]
    command += ["--db", str(store.path)]
    environment = {**os.environ, "COLUMNS": "250"}
    return subprocess.check_output(command, text=True, env=environment, timeout=GUARD)


class Storm:
    """Strikes the orders of some traders with every fault and kills their processes, until all are placed.

    Attributes:
        api: a client of the test's own process.
        rounds: how often every fault has struck.
        killed: how many processes were killed, by when.
        settled: what became of the orders in doubt, by id.
    """

    def __init__(
        self, exchange: KrakenSimulator, store: SQLiteStore, traders: list[Trader]
    ) -> None:
        self._exchange = exchange
        self._store = store
        self._traders = traders
        self._key = traders[0].account.key
        self.rounds = 0
        self.killed: Counter[str] = Counter()
        self.settled: dict[str, str] = {}
        account = traders[0].account
        self.api = client(exchange, account, store, timeout=3_000.0, tier="pro")
        self._hanging: set[int | None] = set()

    def rage(self) -> None:
        """Do it."""
        while self.rounds < PROCESSES * ORDERS // ROUND - 1:
            until(self._next_round, "orders")
            self.rounds += 1
            faults = [*FAULTS]
            random.shuffle(faults)
            for fault in faults:
                self._exchange.inject(fault, method="AddOrder")
            if self.rounds % 2:
                self._exchange.inject(HANG, method="AddOrder")
                until(self._kill_hanging, "a process that hangs in its call")
                # Just now: one of the orders will be executed later.
                self.reconcile()
            else:
                until(self._kill_any, "a process in its call")
        for trader in self._traders:
            trader.end()

    def reconcile(self) -> None:
        """Settle what can be settled, and remember it."""
        for doubt in self.api.reconcile():
            if doubt.outcome not in {"unknown", "interrupted"}:
                self.settled[str(doubt.cl_ord_id)] = doubt.outcome

    def _next_round(self) -> bool:
        asked = self._store.read(fingerprint(self._key)).ticket
        return asked >= (self.rounds + 1) * ROUND

    def _kill(self, how: str, nonce: int | None = None) -> bool:
        running = self._store.read(fingerprint(self._key)).running
        if running is None or nonce not in (None, running.nonce):
            return False
        for trader in self._traders:
            if trader.pid == pid_of(running.session):
                trader.kill()
                self.killed[how] += 1
                return True
        return False

    def _kill_any(self) -> bool:
        return self._kill("at any moment")

    def _kill_hanging(self) -> bool:
        arrivals = self._exchange.stats(self._key).arrivals
        hanging = [a.nonce for a in arrivals if a.fault == HANG]
        fresh = [nonce for nonce in hanging if nonce not in self._hanging]
        if not fresh or not self._kill("while it waits for the reply", fresh[0]):
            return False
        self._hanging.add(fresh[0])
        return True


@pytest.mark.timeout(300)  # 15 to 20 s where nobody else works
def test_a_thousand_orders_through_every_fault(
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
    children: Children,
) -> None:
    """No order exists twice, none that exists was told to have failed, and each one in doubt is settled as it is."""
    start = (store.path, exchange.url, SCALE)
    names = [f"trader{number}" for number in range(PROCESSES)]
    traders = [Trader(children, start, account, name, ORDERS) for name in names]
    storm = Storm(exchange, store, traders)
    storm.rage()
    stats = exchange.stats(account.key)
    struck = Counter(arrival.fault for arrival in stats.arrivals)
    assert all(struck[fault] == storm.rounds for fault in FAULTS)
    assert min(storm.killed.values()) >= 5
    assert (stats.rate_limited, stats.locked_out) == (0, 0)
    tried = [name for trader in traders for name in trader.tried]
    assert Counter(tried) == {
        f"{name}-{number}": 1 for name in names for number in range(1, ORDERS + 1)
    }
    # Commands and programs are told of the same orders in doubt.
    key = fingerprint(account.key)
    sent = [call for call in store.calls(key, 10_000) if call.method == "AddOrder"]
    records = {call.reference.removeprefix("cl_ord_id="): call for call in sent}
    assert len(records) == len(sent)  # no second call for any order
    doubted = {name for name, record in records.items() if in_doubt(record)}
    assert {doubt.cl_ord_id for doubt in storm.api.in_doubt()} == doubted
    listed = json.loads(cli(store, "calls", "--in-doubt", "--limit=1000", "--json"))
    assert {call["reference"] for call in listed} == {f"cl_ord_id={n}" for n in doubted}
    # In time each is settled.
    late = exchange.clock.mono() + 121 * SECOND
    until(lambda: exchange.clock.mono() > late, "what is too late to be executed")
    storm.reconcile()
    assert storm.api.in_doubt() == []
    assert json.loads(cli(store, "calls", "--in-doubt", "--json")) == []
    orders = exchange.orders(account.key)
    executed = {str(order.cl_ord_id): order.txid for order in orders}
    assert len(executed) == len(orders)  # none twice
    assert executed.keys() <= set(tried)
    assert doubted <= storm.settled.keys()
    assert storm.settled == {
        name: "executed" if name in executed else "not_executed"
        for name in storm.settled
    }
    # An order that was executed has a txid for its caller, or was in doubt; none has failed.
    told = {name: what for trader in traders for name, what in trader.told.items()}
    for name in tried:
        match told.get(name):
            case str(txid) if txid.startswith("O"):
                assert executed[name] == txid
                assert name not in storm.settled
            case None if name not in storm.settled:  # killed before its call, or after
                assert (name in executed) == (name in records)
                assert name not in records or records[name].outcome == "ok"
            case None | str() | ["EService:Unavailable"]:
                assert name in storm.settled
            case what:
                pytest.fail(f"{name} was told {what}")
    lookups = exchange.stats(account.key).requests - len(sent)
    assert lookups < len(storm.settled)


# --- at which time what is settled


class Standing:
    """An exchange over HTTP whose clock, which is the client's too, stands until the test moves it."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = Hands()
        self.exchange = Exchange(self.clock, tier="pro")
        self.server = Server(self.exchange, latency=0.0)
        self.store = SQLiteStore(tmp_path / "nonces.db", clock=self.clock)
        self.key, secret = self.exchange.add_key()
        self.api = API(self.key, secret, store=self.store, tier="pro", min_interval=0.0)
        self.api.uri = self.server.url

    def place(self, fault: Fault | None = None, **data: str) -> None:
        """Place an order that a fault strikes."""
        if fault is not None:
            self.exchange.inject(fault, times=1, method="AddOrder", key=self.key)
        with suppress(requests.RequestException):
            self.api.query_private("AddOrder", {**LIMIT, **data})

    def settled(self) -> dict[str | int | None, str]:
        """Look the calls in doubt up, and return what became of those that are settled, by the caller's own id."""
        told = self.api.reconcile()
        assert self.api.in_doubt() == [d for d in told if d.outcome == "unknown"]
        return {
            doubt.cl_ord_id or doubt.userref: doubt.outcome
            for doubt in told
            if doubt.outcome != "unknown"
        }


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    """Run an exchange whose clock stands."""
    made = Standing(tmp_path)
    yield made
    made.store.close()
    made.server.close()


def test_what_is_settled_at_which_time(standing: Standing) -> None:
    """An executed order is settled when it is seen, one that is executed late too; the others after two minutes."""
    standing.place(BadGateway(executed=True), cl_ord_id="open")
    standing.place(LostReply(), cl_ord_id="filled", ordertype="market")
    standing.place(Unavailable(executed=True), userref="-7")
    standing.place(Unavailable(), cl_ord_id="not-at-all")
    standing.place(DelayedExecution(30.0), cl_ord_id="late")
    standing.place(
        DelayedExecution(110.0), cl_ord_id="late-and-filled", ordertype="market"
    )
    standing.place(BadGateway(), userref="8")
    standing.clock.forward(1)
    early = {"open": "executed", "filled": "executed", -7: "executed"}
    assert standing.settled() == early
    standing.clock.forward(28)
    assert standing.settled() == {}
    standing.clock.forward(1)
    assert standing.settled() == {"late": "executed"}
    standing.clock.forward(79)
    assert standing.settled() == {}
    standing.clock.forward(1)
    assert standing.settled() == {"late-and-filled": "executed"}
    standing.clock.forward(9.999)
    assert standing.settled() == {}
    standing.clock.forward(0.001)
    assert standing.settled() == {"not-at-all": "not_executed", 8: "not_executed"}
    assert standing.api.in_doubt() == []
    assert len(standing.exchange.orders(standing.key)) == 5


def test_a_call_that_was_stopped_before_it_was_sent(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two minutes count from the end of the call: it may have been sent long after its turn had come."""
    post = standing.api.session.post

    def late(*arguments: Any, **options: Any) -> requests.Response:
        standing.clock.forward(200)
        return post(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(standing.api.session, "post", late)
        standing.place(DelayedExecution(30.0), cl_ord_id="late")
    assert standing.settled() == {}
    standing.clock.forward(30)
    assert standing.settled() == {"late": "executed"}


def test_the_exchange_is_slow_to_tell_the_time(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the question for the time takes, an executed order is not overlooked."""
    standing.place(BadGateway(executed=True), cl_ord_id="executed")
    standing.clock.forward(120)
    get = standing.api.session.get

    def late(*arguments: Any, **options: Any) -> requests.Response:
        standing.clock.forward(59)
        return get(*arguments, **options)

    monkeypatch.setattr(standing.api.session, "get", late)
    assert standing.settled() == {"executed": "executed"}


def test_fifty_orders_in_doubt_are_looked_up_with_few_calls(standing: Standing) -> None:
    """A starter has a call in 3 s: 50 orders are looked up by one list of the open ones and two pages of the closed."""
    for number in range(50):
        fault = BadGateway(executed=number % 5 > 0)
        standing.place(fault, cl_ord_id=f"doubtful-{number}")
    for number in range(60):
        standing.place(cl_ord_id=f"other-{number}", ordertype="market")
    standing.clock.forward(120)
    before = standing.exchange.stats(standing.key).requests
    told = standing.settled()
    asked = [a.method for a in standing.exchange.stats(standing.key).arrivals[before:]]
    assert asked == ["OpenOrders", "ClosedOrders", "ClosedOrders"]
    assert Counter(told.values()) == {"executed": 40, "not_executed": 10}
    assert all(told[f"doubtful-{n}"] == "not_executed" for n in range(0, 50, 5))


# --- a process that dies in its call

#: An order whose numbers are found wherever they are written.
TRACED: Final = {
    **LIMIT,
    "pair": "ETHCHF",
    "price": "31337.7",
    "volume": "0.0424242",
    "cl_ord_id": "the-callers-own-id",
}


def check_commands(store: SQLiteStore, running: Running) -> None:
    """Check what commands of another process tell of a call whose process has died."""
    (shown,) = json.loads(cli(store, "calls", "--in-doubt", "--json"))
    assert shown["in_doubt"] is True
    assert shown["outcome"] == "interrupted"
    assert (shown["method"], shown["nonce"]) == ("AddOrder", str(running.nonce))
    assert (shown["at"], shown["pid"]) == (moment(running.at), pid_of(running.session))
    assert shown["reference"] == "cl_ord_id=the-callers-own-id"
    (line,) = cli(store, "calls", "--in-doubt").splitlines()[1:]
    assert "interrupted (in doubt)" in line
    day, _, time = shown["at"].partition("T")
    time = time.replace("+00:00", "Z")
    said = {day, time, "AddOrder", shown["nonce"], shown["reference"]}
    assert said <= set(line.split())


def check_files(directory: Path) -> None:
    """Check that of the order nothing but its id was written."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files)
    assert b"the-callers-own-id" in written
    for name in ("pair", "price", "volume"):
        assert TRACED[name].encode() not in written, name


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "never arrives"])
def test_a_process_dies_between_its_turn_and_the_reply(
    arrives: bool, children: Children, tmp_path: Path
) -> None:
    """Others see what it was doing, by method, nonce, time and the caller's own id, and nothing else of the order."""
    scale = 100
    with (
        KrakenSimulator(tier="pro", time_scale=scale, latency=0) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        account = exchange.add_key()
        key = fingerprint(account.key)
        deaf.settimeout(GUARD)
        exchange.inject(HANG, method="AddOrder")
        url = exchange.url if arrives else f"http://127.0.0.1:{deaf.getsockname()[1]}"
        begun = exchange.clock.wall()
        child = children.call(hold, store.path, url, scale, TRACED)
        child.tell(" ".join(account))
        if arrives:
            until(lambda: exchange.stats(account.key).requests, "the request")
            child.kill()
        else:
            connection, _ = deaf.accept()
            child.kill()
            connection.close()
        running = store.read(key).running
        assert running is not None
        assert begun < running.at < exchange.clock.wall()
        assert pid_of(running.session) == child.pid
        check_commands(store, running)
        other = children.call(look, store.path, exchange.url, scale)
        other.tell(" ".join(account))
        at, name = running.at / SECOND, "the-callers-own-id"
        shown = ["AddOrder", running.nonce, at, "interrupted", name, None]
        assert other.result() == [[running.id, *shown]]
        (record,) = store.calls(key)
        assert (record.method, record.nonce) == ("AddOrder", running.nonce)
        assert (record.at, record.outcome) == (running.at, "interrupted")
        check_files(tmp_path)
        # At the exchange, once it is too late for it to be executed.
        late = running.since + (record.took or 0) + 121 * SECOND
        until(lambda: exchange.clock.mono() > late, "what is too late")
        api = client(exchange, account, store)
        (settled,) = api.reconcile()
        assert settled.outcome == ("executed" if arrives else "not_executed")
        assert len(exchange.orders(account.key)) == arrives
        assert json.loads(cli(store, "calls", "--in-doubt", "--json")) == []


# --- bytes that are sent twice

REFUSED: Final = {"error": ["EAPI:Invalid nonce"]}
ORDER: Final = {**LIMIT, "cl_ord_id": "sent-twice"}


class Insistent(HTTPAdapter):
    """An adapter of a program's own, which sends what failed again by itself."""

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """Send it up to twice."""
        reply = super().send(request, *arguments, **options)
        if reply.status_code == 200:
            return reply
        return super().send(request, *arguments, **options)


@contextmanager
def behind(
    tmp_path: Path, answer: Answer, adapter: HTTPAdapter | None
) -> Iterator[tuple[API, KrakenSimulator]]:
    """Put something that answers in its own way between a client, with an adapter of its own, and the exchange."""
    with (
        KrakenSimulator(latency=0) as exchange,
        between(exchange.url, answer) as url,
        SQLiteStore(tmp_path / "nonces.db") as store,
    ):
        api = client(exchange, exchange.add_key(), store)
        api.uri = url
        if adapter is not None:
            api.session.mount("http://", adapter)
        yield api, exchange


def check_one_order(api: API, exchange: KrakenSimulator, sent: list[str]) -> None:
    """Check that the only call is in doubt, that it was sent as told, and that its one order is found."""
    stats = exchange.stats(api.key)
    assert [(a.method, a.verdict) for a in stats.arrivals] == [
        ("AddOrder", verdict) for verdict in sent
    ]
    assert len({arrival.nonce for arrival in stats.arrivals}) == 1
    (doubted,) = api.in_doubt()
    assert (doubted.outcome, doubted.cl_ord_id) == ("unknown", "sent-twice")
    assert doubted.nonce == stats.nonce
    (settled,) = api.reconcile()
    assert settled.outcome == "executed"
    assert len(exchange.orders(api.key)) == 1


@pytest.mark.parametrize(
    ("answer", "adapter"),
    [
        ("502", Eager()),
        ("lost", Eager()),
        ("502", Insistent()),
        ("307", None),
        ("307", Eager()),
    ],
    ids=["502, retried", "lost, retried", "502, insistent", "307", "307, retries"],
)
def test_a_nonce_refused_at_the_second_sending_is_no_reason_to_try_again(
    answer: Answer, adapter: HTTPAdapter | None, tmp_path: Path
) -> None:
    """The refusal reaches the caller as it is; nothing is sent again, no nonce jumps, and the order exists once."""
    with behind(tmp_path, answer, adapter) as (api, exchange):
        assert api.query_private("AddOrder", ORDER) == REFUSED
        with SQLiteStore(tmp_path / "nonces.db") as store:
            state = store.read(fingerprint(api.key))
        assert (state.refusals, state.jumped_at, state.closed) == (0, 0, False)
        check_one_order(api, exchange, ["accepted", "invalid_nonce"])


@pytest.mark.parametrize("answer", ["502", "lost"])
def test_retries_of_an_ordinary_adapter_send_no_order_again(
    answer: Answer, tmp_path: Path
) -> None:
    """Retries that a program has set on an adapter of requests hold for what reads only: an order is sent once."""
    adapter = HTTPAdapter(max_retries=eager())
    with behind(tmp_path, answer, adapter) as (api, exchange):
        with pytest.raises(requests.RequestException):
            api.query_private("AddOrder", ORDER)
        check_one_order(api, exchange, ["accepted"])


@pytest.mark.parametrize(
    ("answer", "adapter"),
    [("307 to nowhere", None), ("307 to nowhere", Eager()), ("502 and gone", Eager())],
    ids=["307", "307, retries", "502, retried"],
)
def test_no_connection_for_the_second_sending_says_nothing_of_the_first(
    answer: Answer, adapter: HTTPAdapter | None, tmp_path: Path
) -> None:
    """A call that is sent again in vain was sent: it is in doubt, not "not sent"."""
    with behind(tmp_path, answer, adapter) as (api, exchange):
        with pytest.raises(requests.ConnectionError):
            api.query_private("AddOrder", ORDER)
        api.uri = exchange.url
        check_one_order(api, exchange, ["accepted"])
