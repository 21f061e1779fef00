"""What the drop-in krakenex client returns or raises is krakenex's own, and on record as what it says."""

from __future__ import annotations

import pytest
import requests
from requests.exceptions import ConnectTimeout
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

from persistent_nonce import errors
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.state import fingerprint
from tests.support import wired
from tests.support.wire import KEY, SECRET, Post, Wire, ok, reply
from tests.support.wired import Spied, connect, outcomes

clock, store = wired.clock, wired.store
wire, client = wired.wire, wired.client


# --- how a call ends


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"error": [], "result": {}}, "ok"),
        ({"error": ["WGeneral:Danger"], "result": {}}, "ok"),
        ({"error": ["EOrder:Insufficient funds"]}, "error"),
        ({"error": ["EAPI:Invalid key"]}, "error"),
        ({"error": ["EAPI:Rate limit exceeded"]}, "error"),
        ({"error": ["EGeneral:Internal error"]}, "unknown"),
        ({"error": ["EService:Unavailable"]}, "unknown"),
        ({"error": ["EService:Busy"]}, "unknown"),
        ({"error": "EAPI:Invalid nonce"}, "unknown"),
        ({"error": [7]}, "unknown"),
        ({"result": {}}, "unknown"),
        (["EAPI:Invalid nonce"], "unknown"),
        (None, "unknown"),
    ],
    ids=str,
)
def test_a_reply_is_returned_as_it_is_and_recorded(
    body: object, outcome: str, client: API, store: Spied, wire: Wire
) -> None:
    """Each reply but a refused nonce is returned unchanged, recorded as what it says, and nothing is sent again."""
    wire.answers = [reply(body)]
    assert client.query_private("AddOrder") == body
    assert outcomes(store) == [outcome]
    assert len(wire.posts) == 1


@pytest.mark.parametrize("status", [500, 502, 504, 520, 429, 403])
def test_an_http_error_is_krakenex_s_own_and_in_doubt(
    status: int, client: API, store: Spied, wire: Wire
) -> None:
    """A status that is no success raises HTTPError as krakenex does, is recorded as unknown, and ends there."""
    wire.answers = [reply("<html>", status)]
    with pytest.raises(requests.exceptions.HTTPError) as caught:
        client.query_private("AddOrder")
    assert caught.value.response is not None
    assert caught.value.response.status_code == status
    assert outcomes(store) == ["unknown"]
    assert len(wire.posts) == 1


def test_a_body_that_does_not_parse_is_in_doubt(
    client: API, store: Spied, wire: Wire
) -> None:
    """A page in place of a reply raises what krakenex raises, and is recorded as unknown."""
    wire.answers = ["<html>"]
    with pytest.raises(requests.exceptions.JSONDecodeError):
        client.query_private("AddOrder")
    assert outcomes(store) == ["unknown"]
    assert len(wire.posts) == 1


def _no_connection() -> Exception:
    refused = NewConnectionError(None, "refused")  # type: ignore[arg-type]  # any pool
    return requests.exceptions.ConnectionError(MaxRetryError(None, "/", refused))  # type: ignore[arg-type]  # any pool


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (_no_connection(), "not_sent"),
        (requests.exceptions.ConnectTimeout("no answer"), "not_sent"),
        (requests.exceptions.ConnectionError(ProtocolError("reset")), "unknown"),
        (requests.exceptions.ConnectionError(), "unknown"),
        (requests.exceptions.SSLError("broken"), "unknown"),
        (requests.exceptions.ReadTimeout("slow"), "unknown"),
        (requests.exceptions.ChunkedEncodingError("cut"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (RuntimeError("of a session hook"), "unknown"),
    ],
    ids=repr,
)
def test_an_error_passes_unchanged_and_is_recorded(
    error: BaseException, outcome: str, client: API, store: Spied, wire: Wire
) -> None:
    """The very error that the session raised reaches the caller, and only without a connection was nothing sent."""
    wire.answers = [error]
    with pytest.raises(type(error)) as caught:
        client.query_private("AddOrder")
    assert caught.value is error
    assert outcomes(store) == [outcome]
    assert len(wire.posts) == 1


def test_a_reply_in_hand_is_returned_when_the_end_cannot_be_stored(
    client: API, store: Spied, wire: Wire
) -> None:
    """A store that fails after the reply costs the caller nothing; the call is ended when it works again (I9)."""

    def answer(_: Post) -> dict[str, object]:
        store.failure = errors.StoreUnavailableError("disk is full")
        return ok("done")

    wire.answers = [answer]
    assert client.query_private("AddOrder")["result"] == "done"
    with pytest.raises(errors.StoreUnavailableError):
        client.query_private("AddOrder")
    store.failure = None
    client.query_private("AddOrder")
    assert outcomes(store) == ["ok", "ok"]


# --- back-offs


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("EAPI:Rate limit exceeded", 10),
        ("EGeneral:Temporary lockout", 900),
        ("EAPI:Invalid key", 5),
        ("EGeneral:Invalid arguments:volume", 1),
        ("EOrder:Rate limit exceeded", 0),
        ("EOrder:Insufficient funds", 0),
        ("EService:Busy", 0),
    ],
)
def test_what_a_reply_asks_of_the_key(
    told: str, seconds: int, client: API, store: Spied, wire: Wire
) -> None:
    """An error is passed on unchanged and recorded; a call that cannot wait for the back-off's end is not sent."""
    wire.answers = [{"error": [told]}]
    assert client.query_private("AddOrder") == {"error": [told]}
    (call,) = store.calls()
    assert call.said == told
    state, now = store.read(fingerprint(KEY)), store.now()
    assert max(0, state.not_before - now.wall) == seconds * 1_000_000_000
    hurried = connect(API(KEY, SECRET, store=store, gate_timeout=0.5), wire)
    if not seconds:
        assert hurried.query_private("CancelOrder") == ok()
        return
    with pytest.raises(errors.LockedOutError) as caught:
        hurried.query_private("CancelOrder")
    assert isinstance(caught.value, ConnectTimeout)
    assert told in str(caught.value)
    assert len(wire.posts) == 1
