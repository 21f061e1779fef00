"""A refused nonce is tried again by the drop-in krakenex client, unless its bytes may have left twice."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import requests
from requests.exceptions import ConnectTimeout
from urllib3.util import Retry
from urllib3.util.retry import RequestHistory

from persistent_nonce import Recovery
from persistent_nonce.adapters import limits
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.state import KeyState, fingerprint
from tests.support import wired
from tests.support.clocks import StillClock
from tests.support.wire import KEY, REFUSED, SECRET, Post, Wire, ok, reply
from tests.support.wired import Spied, close_key, connect, outcomes

clock, store = wired.clock, wired.store
wire, client = wired.wire, wired.client


# --- a refused nonce


@pytest.mark.parametrize(
    "text",
    [
        "EAPI:Invalid nonce",
        "eapi:invalid nonce",
        "EAPI:INVALID NONCE",
        "EAPI: Invalid nonce",
    ],
)
def test_a_refused_nonce_is_tried_again_with_a_greater_one(
    text: str, client: API, store: Spied, wire: Wire, clock: StillClock
) -> None:
    """In any case of letters: one jump of 60 s, a wait of 2 s, and the second try's reply is returned."""
    wire.answers = [{"error": [text]}, ok("second")]
    begun = clock.mono()
    assert client.query_private("AddOrder", {"pair": "X"})["result"] == "second"
    first, second = wire.posts[:2]
    assert second.nonce - first.nonce >= 60_000
    assert 2.0 <= (clock.mono() - begun) / 1e9 < 3.0
    assert second.data == first.data | {"nonce": second.nonce}
    assert second.headers["API-Sign"] != first.headers["API-Sign"]
    assert outcomes(store) == ["invalid_nonce", "ok", "ok"]
    assert [post.method for post in wire.posts[2:]] == ["GetApiKeyInfo"]
    assert store.read(fingerprint(KEY)).refusals == 0


def test_when_attempts_run_out_the_reply_is_returned_and_the_key_closed(
    client: API, store: Spied, wire: Wire, clock: StillClock
) -> None:
    """The third refusal in a row is krakenex's own reply; the next call of anyone fails unsent, with the diagnosis."""
    last = {"error": ["EAPI:Invalid nonce"], "third": True}
    wire.answers = [REFUSED, REFUSED, last]
    begun = clock.mono()
    assert client.query_private("AddOrder") == last
    assert 32.0 <= (clock.mono() - begun) / 1e9 < 34.0
    first, second, third = wire.nonces
    assert 60_000 <= second - first < 63_000
    assert 600_000 <= third - second < 633_000
    another = connect(API(KEY, SECRET, store=store), wire)
    with pytest.raises(KeyClosedError, match="3 nonces in a row") as caught:
        another.query_private("Balance")
    assert isinstance(caught.value, ConnectTimeout)
    assert len(wire.posts) == 3


def test_a_client_without_an_opinion_follows_the_key_s_attempts(
    store: Spied, wire: Wire
) -> None:
    """Where the first client asked for more attempts, a later one that says nothing has as many."""
    first = API(KEY, SECRET, store=store, recovery=Recovery(attempts=5))
    connect(first, wire).query_private("Balance")
    wire.answers = [REFUSED] * 4
    client = connect(API(KEY, SECRET, store=store), wire)
    assert client.query_private("Balance") == ok()
    assert outcomes(store)[1:-1] == ["invalid_nonce"] * 4 + ["ok"]


@pytest.mark.parametrize("when", ["in flight", "while it waits"])
def test_a_reply_in_hand_is_returned_when_another_closed_the_key(
    when: str, client: API, store: Spied, wire: Wire
) -> None:
    """Who has the exchange's refusal gets it, also when another process has closed the key meanwhile."""

    def answer(_: Post) -> dict[str, list[str]]:
        if when == "in flight":
            close_key(store)
        else:
            store.after_update = close
        return REFUSED

    def close(state: KeyState) -> None:
        if state.refusals and state.running is None:
            store.after_update = None
            close_key(store)

    wire.answers = [answer]
    assert client.query_private("AddOrder") == REFUSED
    assert len(wire.posts) == 1
    with pytest.raises(KeyClosedError, match="closed by another"):
        client.query_private("AddOrder")


def test_a_good_reply_is_returned_when_another_closed_the_key(
    client: API, store: Spied, wire: Wire
) -> None:
    """A call that was let in gets its good reply, whatever became of the key."""

    def answer(_: Post) -> dict[str, object]:
        close_key(store)
        return ok("done")

    wire.answers = [answer]
    assert client.query_private("AddOrder")["result"] == "done"
    assert outcomes(store) == ["ok"]


# --- bytes that left more than once


def _resent(how: str) -> Callable[[Post], requests.Response]:
    """Return a refusal that answers the second sending of a request."""

    def answer(_: Post) -> requests.Response:
        told = reply(REFUSED)
        if how == "redirect":
            told.history = [reply("", 307)]
        elif how == "adapter of the program":
            history = (RequestHistory("POST", "/", None, 502, None),)
            told.raw = SimpleNamespace(retries=Retry(3, history=history))
        else:
            for _again in range(2):
                limits._of_thread.limit.uses(SimpleNamespace(sock=None))
        return told

    return answer


@pytest.mark.parametrize("how", ["redirect", "adapter of the program", "connection"])
def test_a_refusal_of_a_second_sending_is_in_doubt(
    how: str, client: API, store: Spied, wire: Wire
) -> None:
    """A refused nonce in reply to bytes that left twice is returned and in doubt: no other try, no jump (I10)."""
    wire.answers = [_resent(how)]
    assert client.query_private("AddOrder", {"cl_ord_id": "A1"}) == REFUSED
    assert len(wire.posts) == 1
    assert outcomes(store) == ["unknown"]
    state = store.read(fingerprint(KEY))
    assert (state.refusals, state.nonce) == (0, wire.nonces[0])
    (doubt,) = client.in_doubt()
    assert (doubt.cl_ord_id, doubt.nonce) == ("A1", wire.nonces[0])
    (call,) = store.calls()
    assert call.said == "EAPI:Invalid nonce"


@pytest.mark.parametrize("how", ["redirect", "adapter of the program", "connection"])
def test_only_a_refused_nonce_is_doubted_for_that(
    how: str, client: API, store: Spied, wire: Wire
) -> None:
    """Any other reply to a second sending means what it says, and the next call is judged by itself."""

    def good(post: Post) -> requests.Response:
        told = _resent(how)(post)
        told._content = b'{"error": [], "result": {}}'
        return told

    wire.answers = [good, _resent(how), REFUSED, ok("again")]
    client.query_private("AddOrder")
    client.query_private("AddOrder")
    assert client.query_private("AddOrder")["result"] == "again"
    assert outcomes(store)[:4] == ["ok", "unknown", "invalid_nonce", "ok"]


def test_one_request_of_its_own_adapter_is_a_first_sending(
    client: API, store: Spied, wire: Wire
) -> None:
    """A reply whose adapter names no retries, and one request noted, is an ordinary refusal."""

    def answer(_: Post) -> requests.Response:
        told = reply(REFUSED)
        told.raw = SimpleNamespace(retries=Retry(3))
        limits._of_thread.limit.uses(SimpleNamespace(sock=None))
        return told

    wire.answers = [answer]
    assert client.query_private("Balance") == ok()
    assert outcomes(store) == ["invalid_nonce", "ok", "ok"]
