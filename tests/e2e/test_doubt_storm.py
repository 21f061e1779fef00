"""A thousand orders through every fault and many kills: none twice, none forgotten, each settled as it is."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.records import in_doubt
from persistent_nonce.state import fingerprint
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
from tests.support import databases, trading
from tests.support.doubting import Trader, command_line
from tests.support.processes import Children
from tests.support.raw_calls import HANG
from tests.support.trading import client, until

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

#: Orders between two rounds of faults; each round has every fault once, and somebody is killed.
ROUND: Final = 60


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=SCALE, latency=0.002) as simulator:
        yield simulator


account, store, children = trading.account, trading.store, databases.children


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
    listed = json.loads(
        command_line(store, "calls", "--in-doubt", "--limit=1000", "--json")
    )
    assert {call["reference"] for call in listed} == {f"cl_ord_id={n}" for n in doubted}
    # In time each is settled.
    late = exchange.clock.mono() + 121 * SECOND
    until(lambda: exchange.clock.mono() > late, "what is too late to be executed")
    storm.reconcile()
    assert storm.api.in_doubt() == []
    assert json.loads(command_line(store, "calls", "--in-doubt", "--json")) == []
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
