"""Who goes first, over processes: cancelling calls before reading ones, and no reading call last for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.order import PATIENCE
from persistent_nonce.state import CallRecord, fingerprint
from persistent_nonce.testing import Credentials, KrakenSimulator
from tests.support import databases, trading
from tests.support.doubting import crowd, reads, stream
from tests.support.processes import Child, Children
from tests.support.trading import until

SCALE = 1


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that takes its time for a call: whoever wants the next one is there before it ends."""
    with KrakenSimulator(tier="pro", time_scale=SCALE, latency=0.02) as simulator:
        yield simulator


account, store, children = trading.account, trading.store, databases.children


class Streams:
    """Two processes that cancel and place without end, and some that ask for the balance when told to."""

    def __init__(
        self,
        exchange: KrakenSimulator,
        account: Credentials,
        store: SQLiteStore,
        children: Children,
    ) -> None:
        self._exchange = exchange
        self._account = account
        self._store = store
        self._children = children
        self._start = (store.path, exchange.url, SCALE)
        self._streams: list[Child] = []

    def reader(self) -> Child:
        """Start a process that asks for the balance when told to."""
        child = self._children.call(reads, *self._start)
        child.tell(" ".join(self._account))
        child.wait_for("ready")
        return child

    def begin(self) -> None:
        """Begin the streams, and wait until they flow."""
        for method in ("CancelOrder", "AddOrder"):
            child = self._children.call(stream, *self._start, method)
            child.tell(" ".join(self._account))
            self._streams.append(child)
        for child in self._streams:
            child.wait_for("ready")
        until(self._flows, "both streams")

    def _flows(self) -> bool:
        arrivals = self._exchange.stats(self._account.key).arrivals
        return {a.method for a in arrivals[-4:]} >= {"AddOrder", "CancelOrder"}

    def end(self) -> list[CallRecord]:
        """End the streams, and return all calls in the order in which they started, which is that of their arrival."""
        for child in self._streams:
            child.tell()
        for child in self._streams:
            assert child.result() > 0
        calls = self._store.calls(fingerprint(self._account.key), 10_000)
        calls = [call for call in calls if call.outcome != "not_sent"]
        stats = self._exchange.stats(self._account.key)
        assert len(calls) < 1_000  # all that there were
        assert [c.nonce for c in reversed(calls)] == [a.nonce for a in stats.arrivals]
        assert (stats.accepted, stats.overlaps) == (stats.requests, 0)
        return calls[::-1]


def overtaken(calls: list[CallRecord], call: CallRecord) -> int:
    """Return how many calls that came later were started before `call` while it was the oldest that waited."""

    def came(one: CallRecord) -> int:
        return one.since - one.waited

    older = [other.since for other in calls if came(other) < came(call)]
    oldest_from = max(older, default=0)
    return sum(
        came(other) > came(call) and oldest_from < other.since < call.since
        for other in calls
    )


def test_a_cancel_overtakes_ten_waiting_reads_of_other_processes(
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
    children: Children,
) -> None:
    """Whoever comes last with a cancelling call is served first; the others in the order in which they came (I7)."""
    key, start = fingerprint(account.key), (store.path, exchange.url, SCALE)

    def waiting() -> int:
        return len(store.read(key).queue)

    with CallGate(store, account.key, timeout=600.0).call("holds the key") as held:
        crowds = [children.call(crowd, *start, "Balance", 2) for _ in range(5)]
        for child in crowds:
            child.tell(" ".join(account))
        until(lambda: waiting() == 10, "ten places in the queue")
        cancel = children.call(crowd, *start, "CancelOrder", 1)
        cancel.tell(" ".join(account))
        until(lambda: waiting() == 11, "another place in the queue")
        queue = store.read(key).queue
        held.not_sent()
    assert cancel.result() == [["EOrder:Unknown order"]]
    assert [child.result() for child in crowds] == [[[], []]] * 5
    calls = {call.id: call for call in store.calls(key)}
    first, *rest = [calls[call.id].nonce for call in (queue[-1], *queue[:-1])]
    arrivals = exchange.stats(account.key).arrivals
    assert arrivals[0].method == "CancelOrder"
    assert [arrival.nonce for arrival in arrivals] == [first, *rest]
    assert [arrival.method for arrival in arrivals[1:]] == ["Balance"] * 10


def test_a_read_is_not_starved_by_cancels_and_orders_without_end(
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
    children: Children,
) -> None:
    """Once a reading call is the oldest, no more than ten later ones go before it, however urgent (I7)."""
    streams = Streams(exchange, account, store, children)
    reader = streams.reader()
    streams.begin()
    for _ in range(5):
        reader.tell()
        assert reader.line() == "done"
    calls = streams.end()
    balances = [call for call in calls if call.method == "Balance"]
    assert len(balances) == 5
    assert 0 < max(overtaken(calls, call) for call in balances) <= PATIENCE


def test_two_waiting_reads_are_served_one_after_the_other(
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
    children: Children,
) -> None:
    """The patience of the second one counts from the start of the first, which came before it (I7)."""
    streams = Streams(exchange, account, store, children)
    readers = [streams.reader(), streams.reader()]
    key = fingerprint(account.key)

    def waiting() -> int:
        return [call.method for call in store.read(key).queue].count("Balance")

    streams.begin()
    gate = CallGate(store, account.key, timeout=600.0)
    with gate.call("holds the key", priority=30) as held:
        for number, reader in enumerate(readers, 1):
            reader.tell()
            until(lambda number=number: waiting() == number, "a place in the queue")  # type: ignore[misc]  # mypy cannot infer a default
        held.not_sent()
    for reader in readers:
        assert reader.line() == "done"
    calls = streams.end()
    first, second = (call for call in calls if call.method == "Balance")
    assert first.since - first.waited < second.since - second.waited
    assert first.since < second.since
    assert 0 < max(overtaken(calls, call) for call in (first, second)) <= PATIENCE
