"""A call that the drop-in krakenex client does not send fails with an error that is ours and krakenex's."""

from __future__ import annotations

import pickle
import threading
from typing import Final

import pytest
from requests.exceptions import ConnectTimeout

from persistent_nonce import errors
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import GateTimeoutError, NonceError
from tests.support import wired
from tests.support.wire import KEY, SECRET, Post, Wire, ok
from tests.support.wired import Spied, connect, outcomes

#: Seconds; a guard for what is done by another thread.
GUARD: Final = 30.0

clock, store = wired.clock, wired.store
wire, client = wired.wire, wired.client


@pytest.mark.parametrize(
    "kind",
    [
        errors.StoreTimeoutError,
        errors.StoreUnavailableError,
        errors.StorePermissionError,
        errors.StoreReplacedError,
        errors.StoreCorruptError,
        errors.NonceRangeError,
        errors.LockedOutError,
        errors.NestedCallError,
        errors.ForkedCallError,
    ],
)
def test_what_was_not_sent_is_ours_and_krakenex_s(
    kind: type[NonceError], client: API, store: Spied, wire: Wire
) -> None:
    """An error before sending is of its own class and a ConnectTimeout; message, hint and classes survive pickling."""
    store.failure = kind("it failed", "mend it")
    with pytest.raises(kind) as caught:
        client.query_private("Balance")
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    for error in (caught.value, copy):
        assert isinstance(error, kind)
        assert isinstance(error, ConnectTimeout)
        assert (str(error), error.hint) == ("it failed (mend it)", "mend it")
    assert type(copy) is type(caught.value)
    assert isinstance(caught.value.__cause__, kind)
    assert not wire.posts


def test_no_turn_within_the_gate_timeout_is_a_timeout_of_every_kind(
    store: Spied, wire: Wire
) -> None:
    """A call that waits in vain raises what is a TimeoutError and a ConnectTimeout too, and names the holder (I8)."""
    client = connect(API(KEY, SECRET, store=store, gate_timeout=3.0), wire)
    caught: list[BaseException] = []

    def meanwhile(_: Post) -> dict[str, object]:
        other = threading.Thread(target=second)
        other.start()
        other.join(GUARD)
        return ok()

    def second() -> None:
        try:
            client.query_private("Balance")
        except NonceError as error:
            caught.append(error)

    wire.answers = [meanwhile]
    client.query_private("AddOrder")
    (error,) = caught
    assert isinstance(error, GateTimeoutError)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, ConnectTimeout)
    assert "AddOrder" in str(error)
    assert len(wire.posts) == 1
    assert outcomes(store) == ["ok"]


def test_a_call_inside_a_call_is_refused_at_once(
    client: API, store: Spied, wire: Wire
) -> None:
    """A hook that calls again with the same key gets NestedCallError; the outer call ends as it was."""
    caught: list[BaseException] = []

    def nested(_: Post) -> dict[str, object]:
        try:
            client.query_private("Balance")
        except NonceError as error:
            caught.append(error)
        return ok()

    wire.answers = [nested]
    assert client.query_private("AddOrder") == ok()
    assert isinstance(caught[0], errors.NestedCallError)
    assert outcomes(store) == ["ok"]
