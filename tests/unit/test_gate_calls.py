"""One call through the gate: its nonce, its record, how it ends, and that it is used once."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import CallGate, calls
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    ConfigurationError,
    ForkedCallError,
    InvalidNonceError,
    NestedCallError,
    StoreUnavailableError,
)
from persistent_nonce.state import Changed, Outcome
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import stepped
from tests.support.simulated import Hands
from tests.support.stepped import KEY, BoomError, Spied, outcomes, state_of

clock, store, gate = stepped.clock, stepped.store, stepped.gate


def test_a_call(gate: CallGate, store: Spied, clock: Hands) -> None:
    """A call has a nonce of the clock, runs alone while it lasts, and is recorded with its time."""
    with gate.call("Balance", cost=2) as call:
        running = state_of(store).running
        assert running is not None
        assert (running.nonce, running.method) == (call.nonce, "Balance")
        assert call.nonce == clock.wall() // 1_000_000
        assert call.waited == 0.0
        clock.forward(0.5)
    assert state_of(store).running is None
    (record,) = store.calls()
    assert (record.method, record.cost, record.nonce) == ("Balance", 2, call.nonce)
    assert (record.outcome, record.took, record.waited) == ("ok", SECOND // 2, 0)


def test_a_free_gate_costs_two_transactions(gate: CallGate, store: Spied) -> None:
    """With nobody waiting, a passage is one transaction on the way in and one on the way out."""
    with gate.call("Balance"):
        assert store.updates == 1
    assert (store.updates, store.reads) == (2, 0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidNonceError("EAPI:Invalid nonce"), "invalid_nonce"),
        (BoomError(), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (SystemExit(1), "unknown"),
        (GeneratorExit(), "unknown"),
        (asyncio.CancelledError(), "unknown"),
    ],
)
def test_how_an_error_of_the_body_is_recorded(
    gate: CallGate, store: Spied, error: BaseException, outcome: str
) -> None:
    """An error reaches the caller as it is, and the call may have been executed unless its nonce was refused."""
    with pytest.raises(type(error)) as raised, gate.call("Balance"):
        raise error
    assert raised.value is error
    assert outcomes(store) == [outcome]
    assert state_of(store).running is None


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "said", ["ok", "error", "invalid_nonce", "unknown", "not_sent"]
)
def test_the_body_may_know_better(
    gate: CallGate, store: Spied, said: Outcome, fails: bool
) -> None:
    """What the body says of its call is recorded, whatever it raises."""

    def body() -> None:
        with gate.call("Balance") as call:
            call.settle(said)
            if fails:
                raise BoomError

    if fails:
        with pytest.raises(BoomError):
            body()
    else:
        body()
    assert outcomes(store) == [said]


@pytest.mark.parametrize("outcome", ["in_flight", "interrupted"])
def test_what_only_the_library_can_know(gate: CallGate, outcome: Outcome) -> None:
    """A body cannot say that its call goes on, or that its process died."""
    with gate.call("Balance") as call, pytest.raises(ConfigurationError):
        call.settle(outcome)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("EOrder:Insufficient funds", "EOrder:Insufficient funds"),
        ("x" * 201, "x" * 200),
        ("EOrder:\ud800", "EOrder:?"),
        ("é\U0001f600", "é\U0001f600"),
    ],
    ids=ascii,
)
def test_what_the_exchange_said(
    gate: CallGate, store: Spied, said: str, kept: str
) -> None:
    """Its error is on record, as far as it fits and can be written; the last word of a body holds."""
    with gate.call("AddOrder") as call:
        call.settle("unknown", "at first")
        call.settle("error", said)
    (record,) = store.calls()
    assert (record.outcome, record.said) == ("error", kept)


def test_half_a_character_stops_nobody(tmp_path: Path) -> None:
    """JSON may hold half a character; in an error of the exchange it costs neither the reply nor the key (I9)."""
    with closing(SQLiteStore(tmp_path / "nonces.db")) as store:
        gate = CallGate(store, KEY, min_interval=0)
        with gate.call("AddOrder") as call:
            call.settle("error", "EOrder:\ud800")
            call.back_off("\udfff", 0.001)
        with gate.call("AddOrder") as call:
            pass
        assert [record.said for record in store.calls()] == ["", "EOrder:?"]
        assert store.read(gate.key).reason == "?"


def test_only_the_success_that_ends_refusals_heals(
    gate: CallGate, store: Spied, clock: Hands
) -> None:
    """A call knows whether its success ended a row of refused nonces."""
    healed = []
    for outcome in ("ok", "invalid_nonce", "unknown", "ok", "ok"):
        with gate.call("Balance") as call:
            call.settle(outcome)
            assert not call.healed
        healed.append(call.healed)
        clock.forward(60)
    assert healed == [False, False, False, True, False]


def test_a_reference_is_kept_with_the_record(gate: CallGate, store: Spied) -> None:
    """The caller's own id of what a call places is on record from its start, and at its end."""
    with gate.call("AddOrder", durable=True, reference="cl_ord_id=A1"):
        assert [call.reference for call in store.calls()] == ["cl_ord_id=A1"]
    with next(gate.attempts("AddOrder", reference="userref=7")):
        pass
    with gate.call("AddOrder"):
        pass
    kept = [call.reference for call in store.calls()]
    assert kept == ["", "userref=7", "cl_ord_id=A1"]


@pytest.mark.parametrize(
    "reference", ["two\nlines", " a", "x" * 65, "\ud800", 7], ids=ascii
)
def test_unusable_references(gate: CallGate, store: Spied, reference: Any) -> None:
    """A reference that cannot be kept is refused when the call is made, and nothing is lost."""
    with pytest.raises(ConfigurationError):
        gate.call("AddOrder", reference=reference)
    with pytest.raises(ConfigurationError):
        next(gate.attempts("AddOrder", reference=reference))
    assert store.updates == 0


def test_a_call_that_was_not_sent(gate: CallGate, store: Spied) -> None:
    """Its nonce is burnt, and the next call has a greater one."""
    with gate.call("Balance") as unsent:
        unsent.not_sent()
    with gate.call("Balance") as call:
        assert call.nonce > unsent.nonce
    assert outcomes(store) == ["not_sent", "ok"]


def test_changes_are_recorded_before_they_start(gate: CallGate, store: Spied) -> None:
    """The record of a call that changes something is there while it is in flight; that of another comes at its end."""
    with gate.call("AddOrder", durable=True):
        assert outcomes(store) == ["in_flight"]
    with gate.call("Balance"):
        assert outcomes(store) == ["ok"]
    assert outcomes(store) == ["ok", "ok"]


def test_a_call_is_used_once(gate: CallGate, store: Spied) -> None:
    """A call object cannot be entered again, neither inside itself nor later."""
    call = gate.call("Balance")
    with call, pytest.raises(NestedCallError, match="entered before"):
        call.__enter__()
    with pytest.raises(NestedCallError, match="entered before"):
        call.__enter__()
    assert outcomes(store) == ["ok"]


def test_a_call_that_failed_to_begin_is_used_up(gate: CallGate, store: Spied) -> None:
    """Also one that was never begun cannot be entered again, which could be by a waiting and a giving-up thread."""
    store.failures.append(StoreUnavailableError("gone"))
    call = gate.call("Balance")
    with pytest.raises(StoreUnavailableError):
        call.__enter__()
    with pytest.raises(NestedCallError):
        call.__enter__()


def test_a_call_that_has_not_begun_has_no_nonce(gate: CallGate) -> None:
    """Nonce, wait and outcome belong to a call that has begun."""
    call = gate.call("Balance")
    for ask in (lambda: call.nonce, lambda: call.waited, call.not_sent):
        with pytest.raises(ConfigurationError, match="not begun"):
            ask()


def test_an_inherited_call(
    gate: CallGate, store: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process neither nonce, exit nor finalizer of a call does anything."""
    call = gate.call("Balance").__enter__()
    before, mine = state_of(store), os.getpid()
    with monkeypatch.context() as forked:
        forked.setattr(calls.os, "getpid", lambda: -1)  # type: ignore[attr-defined]  # a module is not a class
        for use in (lambda: call.nonce, lambda: call.__exit__(None, None, None)):
            with pytest.raises(ForkedCallError, match=f"process {mine}"):
                use()
        call.__del__()
        gate.store.update("0" * 16, lambda state, now: Changed(state))
        assert state_of(store) == before
    call.__exit__(None, None, None)
    assert outcomes(store) == ["ok"]
