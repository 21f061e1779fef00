"""A store that fails on a call's way in or out, which costs nobody a reply and leaves nothing."""

from __future__ import annotations

import pytest

from persistent_nonce.errors import InvalidNonceError, StoreUnavailableError
from tests.support import stepped
from tests.support.stepped import Process, Spied, outcomes, state_of

clock, store = stepped.clock, stepped.store


def test_a_store_that_fails_on_the_way_in(store: Spied) -> None:
    """The error reaches the caller, nothing was sent, and nothing is left (I9)."""
    process = Process(store)
    process.store.failures.append(StoreUnavailableError("the disk is full"))
    with pytest.raises(StoreUnavailableError, match="full"):
        process.gate.call("Balance").__enter__()
    assert process.clean
    assert state_of(store).queue == ()
    with process.gate.call("Balance"):
        pass


def test_a_store_that_fails_on_the_way_out(
    store: Spied, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller keeps its reply, and the call is ended, with its outcome, as soon as the store works again."""
    process = Process(store)

    def body() -> str:
        with process.gate.call("Balance"):
            process.store.failures.append(StoreUnavailableError("the disk is full"))
            return "reply"

    assert body() == "reply"
    assert "could not be ended yet: the disk is full" in caplog.text
    assert state_of(store).running is not None
    with process.gate.call("Ledgers"):
        pass
    assert sorted(outcomes(store)) == ["ok", "ok"]
    assert process.clean


def test_a_refusal_that_could_not_be_stored(store: Spied) -> None:
    """Without the shared state there is no further attempt: the others could not know of the back-off (I9)."""
    process = Process(store)

    def body() -> None:
        for attempt in process.gate.attempts("Balance"):
            with attempt:
                process.store.failures.append(StoreUnavailableError("the disk is full"))
                raise InvalidNonceError

    with pytest.raises(InvalidNonceError, match="attempt 1 of 3"):
        body()
