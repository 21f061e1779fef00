"""The faults of the simulated exchange, on demand, without HTTP."""

from __future__ import annotations

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.testing import (
    BadGateway,
    DelayedExecution,
    EngineLimit,
    Fault,
    Lockout,
    LostReply,
    Throttled,
    Unavailable,
)
from tests.support import simulated
from tests.support.simulated import LIMIT, Client, Hands

clock, client = simulated.clock, simulated.client


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


def test_the_trading_engine_s_limit_refuses_one_call(client: Client) -> None:
    """A call that is over the engine's limit is not executed; the next one is."""
    client.inject(EngineLimit(), method="AddOrder")
    assert client.error("AddOrder", **LIMIT) == "EOrder:Rate limit exceeded"
    assert client.exchange.orders(client.key) == []
    assert client.error("AddOrder", **LIMIT) == ""


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
        client.inject(LostReply)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ConfigurationError):
        client.inject(LostReply(), times=0)
    with pytest.raises(ConfigurationError):
        client.inject(LostReply(), key="nobody")
    with pytest.raises(ConfigurationError):
        Throttled(-1)
