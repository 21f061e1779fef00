"""Calls over HTTP while the server is slow, hangs, resets and drips, and holders are killed in mid-call."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import pytest
import requests

from persistent_nonce import SQLiteStore
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DrippingReply,
    Fault,
    KrakenSimulator,
    LostReply,
    Unavailable,
)
from tests.support import trading
from tests.support.callers import until
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.faulting_traders import trade
from tests.support.processes import Child, Children
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD, client, outcomes

pytestmark = pytest.mark.timeout(LONG)

account, store = trading.account, trading.store

SCALE: Final = 20
PROCESSES: Final = 4

#: Seconds that a client waits for a part of a reply, and half of what it waits for the whole.
PATIENCE: Final = 0.3

#: What goes wrong, each as likely as another: slow, cut, hung, dripping, garbled, unavailable.
FAULTS: Final[tuple[Fault, ...]] = (
    LostReply(),
    LostReply(after=0.05),
    LostReply(after=3_600),
    DrippingReply(interval=0.0005),
    DrippingReply(interval=0.05),
    BadGateway(502),
    BadGateway(520, executed=True),
    BadGateway(200, executed=True),
    Unavailable(),
)


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything, 20 times as fast; late requests of the killed lock nobody out."""
    with KrakenSimulator(
        tier="pro", time_scale=SCALE, latency=0.002, lockout_after=10_000
    ) as simulator:
        yield simulator


def test_faults_of_the_server_and_killed_holders(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """One call at the server at a time, in the order of nonces, but for those of the killed (I2, I3, I5; A31)."""
    calls, chance = times(40, 240), random.Random(31)
    for _ in range(calls // 2):
        exchange.inject(chance.choice(FAULTS), key=account.key)
    key, killed, ends = fingerprint(account.key), set[int](), Counter[str]()
    with Children() as children:

        def another(calls: int) -> Child:
            child = children.call(
                trade, store.path, exchange.url, SCALE, PATIENCE, calls
            )
            child.tell(" ".join(account))
            child.wait_for("ready")
            return child

        workers = [another(calls) for _ in range(PROCESSES)]
        for number in range(times(3, 24)):
            before = exchange.stats(account.key).requests

            def holder(before: int = before, number: int = number) -> Child | None:
                """Return a worker that is in a call, once some more calls were made."""
                running = store.read(key).running
                pid = None if running is None else pid_of(running.session)
                more = exchange.stats(account.key).requests >= before + 5
                return next((w for w in workers if more and w.pid == pid), None)

            until(lambda: holder() is not None, "a worker in its call")
            time.sleep(chance.uniform(0, 0.001))  # anywhere in it
            victim = holder() or chance.choice(workers)
            victim.kill()
            killed.add(victim.pid)
            workers[workers.index(victim)] = another(calls)
        until(lambda: exchange.stats(account.key).requests >= calls, "all calls")
        for worker in workers:
            worker.kill()
            killed.add(worker.pid)
        last = client(exchange, account, store)
        ends[str(last.query_private("Balance")["error"])] += 1
    records = store.calls(key, limit=10_000)
    cut = {r.nonce for r in records if r.outcome == "interrupted"}
    assert {pid_of(r.session) for r in records if r.nonce in cut} <= killed
    assert cut
    arrivals = exchange.stats(account.key).arrivals
    assert len(arrivals) >= calls
    spared = {a.number for a in arrivals if a.nonce in cut}
    kept = [a for a in arrivals if a.number not in spared]
    assert {a.verdict for a in kept} == {"accepted"}
    assert [a for a in kept if {*a.overlapped} - spared] == []
    nonces = [a.nonce for a in kept if a.nonce is not None]
    assert len(nonces) == len(kept)
    assert all(one < other for one, other in pairwise(nonces))
    struck = {a.nonce for a in kept if a.fault is not None and not a.completed}
    doubtful = {r.nonce for r in records if r.outcome == "unknown"}
    assert struck <= doubtful | cut  # whoever got no reply is in doubt
    figure("calls that arrived", len(arrivals))
    figure("of them cut by a kill", len(spared))
    figure("recorded as", Counter(record.outcome for record in records))


def test_replies_that_drip(
    exchange: KrakenSimulator, account: Credentials, store: SQLiteStore
) -> None:
    """A reply that drips for ever is cut after twice the time limit, each time, and is in doubt (I8; A37)."""
    api = client(exchange, account, store, timeout=PATIENCE, tier="pro")
    rounds, longest = times(3, 20), 0.0
    for _ in range(rounds):
        exchange.inject(DrippingReply(interval=0.05))  # never late with a byte
        begin = time.monotonic()
        with pytest.raises(requests.exceptions.ReadTimeout):
            api.query_private("AddOrder", LIMIT)
        longest = max(longest, time.monotonic() - begin)
    figure("cut after, seconds at the most", round(longest, 3))
    assert longest < GUARD
    arrivals = exchange.stats(account.key).arrivals
    assert [a.completed for a in arrivals] == [False] * rounds
    assert [a.overlapped for a in arrivals] == [()] * rounds
    assert outcomes(store, account.key) == [("AddOrder", "unknown")] * rounds
