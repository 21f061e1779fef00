"""Bots written with every client, on one key of the simulated exchange, whose own counters are the judge."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.testing import Arrival, Credentials, KrakenSimulator
from persistent_nonce.testing.visits import Stats
from tests.support import trading
from tests.support.mixed_bots import CLIENTS, Job, trade
from tests.support.processes import Child, Children

SCALE: Final = 20
CALLS: Final = 100

#: One process for each client, and a second of one.
BOTS: Final = (*CLIENTS, "krakenex")

account, store = trading.account, trading.store

Record = Callable[[str, object], None]


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=SCALE, latency=0.002) as simulator:
        yield simulator


class Bots:
    """A process for each client, of which some may be killed and replaced."""

    def __init__(
        self, children: Children, exchange: KrakenSimulator, account: Credentials
    ) -> None:
        self._children = children
        self._given = (exchange.url, *account)
        self.met: Counter[str] = Counter()
        self.killed: list[int] = []

    def work(self, calls: int, path: Path | str, doomed: dict[int, int]) -> None:
        """Let each bot make so many calls; those at the places `doomed` are killed after some, and replaced."""
        started = [self._start(client, calls, path) for client in BOTS]
        threads = [
            threading.Thread(
                target=self._follow,
                args=(client, child, calls, path, doomed.get(place, 0)),
            )
            for place, (client, child) in enumerate(zip(BOTS, started, strict=True))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _start(self, client: str, calls: int, path: Path | str) -> Child:
        job = Job(client, *self._given, str(path), SCALE, calls)
        return self._children.call(trade, *job)

    def _follow(
        self, client: str, child: Child, calls: int, path: Path | str, kill: int
    ) -> None:
        if kill:
            for _ in range(kill):
                child.wait_for("called")
            child.kill()
            self.killed.append(child.pid)
            child = self._start(client, calls - kill, path)
        result: dict[str, int] = child.result()
        self.met.update(result)


def check_arrivals(arrivals: Iterable[Arrival], exempt: set[int | None]) -> None:
    """Check that all were accepted, one at a time, in the order of their nonces, but for the killed callers' own."""
    kept = [arrival for arrival in arrivals if arrival.nonce not in exempt]
    assert Counter(arrival.verdict for arrival in kept) == {"accepted": len(kept)}
    numbers = {arrival.number for arrival in kept}
    assert [a for a in kept if numbers & {*a.overlapped}] == []
    nonces: list[Any] = [arrival.nonce for arrival in kept]
    assert all(one < other for one, other in itertools.pairwise(nonces))


def figures(whose: str, stats: Stats) -> str:
    """Return the exchange's figures, to be seen beside each other."""
    return (
        f"{whose}: {len(stats.arrivals)} calls arrived, {stats.refused_nonce} nonces refused, "
        f"{stats.locked_out} calls locked out, {stats.max_in_flight} in flight at once"
    )


@pytest.mark.timeout(300)  # a guard
def test_every_client_on_one_key(
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
    record_property: Record,
) -> None:
    """Six processes, five clients, 100 calls each, two killed and replaced: no refusal of any kind (I2, I3, I5, I6)."""
    draw = random.Random(5)
    places = draw.sample(range(len(BOTS)), 2)
    doomed = {place: draw.randrange(20, 80) for place in places}
    with Children() as children:
        bots = Bots(children, exchange, account)
        bots.work(CALLS, store.path, doomed)
    assert bots.met == {}
    records = store.calls(fingerprint(account.key), limit=10_000)
    cut = [record for record in records if record.outcome != "ok"]
    assert {record.outcome for record in cut} <= {"interrupted"}
    assert {pid_of(record.session) for record in cut} <= {*bots.killed}
    assert len(cut) <= len(bots.killed) == len(doomed)
    stats = exchange.stats(account.key)
    record_property("figure", figures("drop-in clients", stats))
    check_arrivals(stats.arrivals, {record.nonce for record in cut})
    assert len(stats.arrivals) >= len(BOTS) * CALLS - len(cut)
    assert {record.method for record in records} >= {"AddOrder", "CancelOrder"}


@pytest.mark.timeout(300)  # a guard
def test_the_same_mixture_of_plain_clients_is_refused(
    exchange: KrakenSimulator, account: Credentials, record_property: Record
) -> None:
    """Without the library the same bots shut each other out, and the key is locked out."""
    with Children() as children:
        bots = Bots(children, exchange, account)
        bots.work(CALLS // 5, "", {})
    stats = exchange.stats(account.key)
    record_property("figure", figures("plain clients", stats))
    assert stats.refused_nonce > 0
    assert stats.locked_out > 0
    assert bots.met
