"""At which time what is settled of the orders in doubt, and with how few calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.testing import (
    BadGateway,
    DelayedExecution,
    Fault,
    LostReply,
    Unavailable,
)
from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.server import Server
from tests.support.simulated import LIMIT, Hands


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
