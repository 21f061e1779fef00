"""The drop-in krakenex client without a network: what it sends, returns, raises and records."""

from __future__ import annotations

import binascii
import importlib
import itertools
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError
from urllib3.util import Retry
from urllib3.util.retry import RequestHistory

from persistent_nonce import Recovery, errors, gate, kraken, passage, steps
from persistent_nonce.adapters import base, limits
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import (
    ConfigurationError,
    GateTimeoutError,
    KeyClosedError,
    NonceError,
)
from persistent_nonce.state import Change, Changed, KeyState, fingerprint
from persistent_nonce.stores.memory import MemoryStore
from tests.support.clocks import StillClock
from tests.support.wire import KEY, REFUSED, SECRET, Post, Wire, ok, reply

OTHER: Final = "the public part of another key"
GUARD: Final = 30.0

ConnectTimeout = requests.exceptions.ConnectTimeout


class Spied(MemoryStore):
    """A store that fails as ordered, and lets something happen after an update."""

    failure: NonceError | None = None
    after_update: Callable[[KeyState], object] | None = None

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Update, unless it is to fail."""
        if self.failure is not None:
            raise self.failure
        state = super().update(key, change, durable=durable)
        if self.after_update is not None:
            self.after_update(state)
        return state


class Forbidden:
    """A store that nobody may use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked for {name}")


def forbidden(*_: object, **__: object) -> Any:
    """Fail: nobody was to call this."""
    raise AssertionError("called")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """Return a clock that moves while the library waits, which takes no time."""
    clock = StillClock()

    def pause(seconds: float) -> Any:
        return steps.do(lambda: clock.advance(seconds))

    monkeypatch.setattr(passage, "pause", pause)
    return clock


@pytest.fixture
def store(clock: StillClock) -> Spied:
    """Return a store by that clock."""
    return Spied(clock=clock)


@pytest.fixture
def wire() -> Wire:
    """Return what stands for the network."""
    return Wire()


@pytest.fixture
def client(store: Spied, wire: Wire) -> API:
    """Return a client of that store on that wire."""
    return connect(API(KEY, SECRET, store=store), wire)


def connect(client: API, wire: Wire) -> API:
    """Put a client on a wire."""
    client.session = wire  # type: ignore[assignment]  # as much of one as is used
    return client


def outcomes(store: MemoryStore, key: str = KEY) -> list[str]:
    """Return how the calls of a key ended, the first one first."""
    calls = sorted(store.calls(fingerprint(key)), key=lambda call: call.nonce)
    return [call.outcome for call in calls]


def close_key(store: MemoryStore) -> None:
    """Act as another process that closes the key."""

    def close(state: KeyState, _: object) -> Changed:
        return Changed(state._replace(closed=True, diagnosis="closed by another"))

    MemoryStore.update(store, fingerprint(KEY), close)


# --- making one, and its key


def test_the_constructor_does_no_io(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Making a client opens no store and makes neither file nor connection."""
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "nonces.db"))
    monkeypatch.setattr(base, "open_store", forbidden)
    monkeypatch.setattr("socket.socket.connect", forbidden)
    API(KEY, SECRET, tier="pro", unit="us", recovery=Recovery(attempts=5))
    assert list(tmp_path.iterdir()) == []


def test_the_default_store_is_opened_once_at_the_first_private_call(
    monkeypatch: pytest.MonkeyPatch, wire: Wire, store: Spied
) -> None:
    """Without a store of their own, all clients of a process share the one in the default place."""
    opened = itertools.count()
    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", lambda: (next(opened), store)[1])
    clients = [connect(API(KEY, SECRET), wire) for _ in range(2)]
    assert next(opened) == 0
    for client in clients:
        client.query_private("Balance")
    assert next(opened) == 2
    assert outcomes(store) == ["ok", "ok"]


def test_a_default_store_that_cannot_be_opened_is_a_call_not_sent(
    monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    """An error in opening the default store is ours and a ConnectTimeout, and nothing was sent (I9)."""

    def broken() -> Any:
        raise errors.StorePermissionError("not yours", "chown it")

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", broken)
    client = connect(API(KEY, SECRET), wire)
    with pytest.raises(errors.StorePermissionError, match="not yours") as caught:
        client.query_private("Balance")
    assert isinstance(caught.value, ConnectTimeout)
    assert not wire.posts


@pytest.mark.parametrize(
    "wrong",
    [
        {"tier": "gold"},
        {"unit": "min"},
        {"min_interval": -1},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"gate_timeout": -1},
    ],
    ids=str,
)
def test_an_unusable_argument_is_refused(wrong: dict[str, Any]) -> None:
    """The constructor refuses what cannot be used."""
    with pytest.raises(ConfigurationError):
        API(KEY, SECRET, **wrong)


def test_each_key_of_one_client_has_a_row_of_its_own(
    client: API, store: Spied, wire: Wire, tmp_path: Path
) -> None:
    """The gate follows `key`: after `load_key` the calls are another key's, and back again."""
    file = tmp_path / "other.key"
    file.write_text(f"{OTHER}\n{SECRET}\n")
    client.query_private("Balance")
    client.load_key(str(file))  # type: ignore[no-untyped-call]  # krakenex has no annotations
    client.query_private("TradeBalance")
    client.key = KEY
    client.query_private("OpenOrders")
    assert [post.headers["API-Key"] for post in wire.posts] == [KEY, OTHER, KEY]
    for key, methods in ((KEY, {"Balance", "OpenOrders"}), (OTHER, {"TradeBalance"})):
        calls = store.calls(fingerprint(key))
        assert {call.method for call in calls} == methods
        sent = [post.nonce for post in wire.posts if post.headers["API-Key"] == key]
        assert store.read(fingerprint(key)).nonce == sent[-1]


def test_a_key_set_while_a_call_waited_is_not_given_its_nonce(
    client: API, store: Spied, wire: Wire
) -> None:
    """A call that began with one key is not sent with another, whose row knows nothing of the nonce (I1)."""

    def rotate(state: KeyState) -> None:
        if state.running is not None:
            client.key = OTHER

    store.after_update = rotate
    with pytest.raises(errors.CallError, match="key was changed") as caught:
        client.query_private("AddOrder")
    assert isinstance(caught.value, ConnectTimeout)
    assert not wire.posts
    assert outcomes(store) == ["not_sent"]
    assert store.keys() == [fingerprint(KEY)]


@pytest.mark.parametrize(("key", "secret"), [("", SECRET), (KEY, ""), ("", "")])
def test_a_missing_key_or_secret_is_krakenex_s_own_error(
    key: str, secret: str, wire: Wire
) -> None:
    """Without key or secret krakenex itself says so, and the store is not touched."""
    client = connect(API(key, secret, store=Forbidden()), wire)
    data = {"pair": "XBTUSD"}
    with pytest.raises(Exception, match="Either key or secret is not set"):
        client.query_private("Balance", data)
    assert (wire.posts, data) == ([], {"pair": "XBTUSD"})


def test_a_secret_that_is_no_base64_is_recorded_as_not_sent(
    client: API, store: Spied, wire: Wire
) -> None:
    """A call that cannot be signed raises what krakenex raises and is recorded as not sent."""
    client.secret = "x"  # noqa: S105 - it is none
    with pytest.raises(binascii.Error):
        client.query_private("AddOrder")
    client.secret = SECRET
    client.query_private("AddOrder")
    assert len(wire.posts) == 1
    assert outcomes(store) == ["not_sent", "ok"]


def test_without_krakenex_the_import_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Importing the adapter without krakenex names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "krakenex", None)
    monkeypatch.delitem(sys.modules, "persistent_nonce.adapters.krakenex")
    with pytest.raises(ImportError, match=r"persistent_nonce\[krakenex\]"):
        importlib.import_module("persistent_nonce.adapters.krakenex")


# --- what is left as it was


def test_public_calls_never_touch_the_store(wire: Wire) -> None:
    """A public call is krakenex's own, with a store that fails on any use."""
    client = connect(API(KEY, SECRET, store=Forbidden()), wire)
    assert client.query_public("Time")["result"] == {"unixtime": 1}  # type: ignore[no-untyped-call]  # krakenex has no annotations
    assert len(wire.gets) == 1


@pytest.mark.parametrize("given", [{}, {"pair": "XBTUSD"}, {"nonce": 7, "pair": "X"}])
def test_the_caller_s_dict_is_untouched(
    given: dict[str, Any], client: API, wire: Wire
) -> None:
    """The nonce goes into a copy of the caller's dict, also when the call is tried again."""
    wire.answers = [REFUSED, ok()]
    data = dict(given)
    client.query_private("Balance", data)
    assert data == given
    own, verifying = wire.posts[:2], wire.posts[2:]
    assert all(post.data == given | {"nonce": post.nonce} for post in own)
    assert [post.method for post in verifying] == ["GetApiKeyInfo"]


def test_an_overridden_query_still_works(store: Spied, wire: Wire) -> None:
    """A subclass may put its own `_query` around ours, or in place of it."""
    paths = []

    class Around(API):
        def _query(self, urlpath: str, *args: Any, **kwargs: Any) -> Any:
            paths.append(urlpath)
            return super()._query(urlpath, *args, **kwargs)

    class Instead(API):
        def _query(self, urlpath: str, data: Any, *_: Any, **__: Any) -> Any:
            return {"error": [], "result": data["nonce"]}

    connect(Around(KEY, SECRET, store=store), wire).query_private("Balance")
    told = Instead(KEY, SECRET, store=store).query_private("Balance")["result"]
    assert paths == ["/0/private/Balance"]
    assert told > wire.nonces[0]
    assert outcomes(store) == ["ok", "ok"]


def test_a_query_that_sends_again_is_seen(store: Spied, wire: Wire) -> None:
    """A `_query` of the program's own that calls ours twice may have had the first sending executed."""

    class Twice(API):
        def _query(self, urlpath: str, *args: Any, **kwargs: Any) -> Any:
            super()._query(urlpath, *args, **kwargs)
            return super()._query(urlpath, *args, **kwargs)

    def told(answer: Any) -> Callable[[Post], Any]:
        def one(_: Post) -> Any:
            limits._of_thread.limit.uses(SimpleNamespace(sock=None))
            return answer

        return one

    wire.answers = [told(ok()), told(REFUSED)]
    client = connect(Twice(KEY, SECRET, store=store), wire)
    assert client.query_private("AddOrder") == REFUSED
    assert outcomes(store) == ["unknown"]
    assert len(wire.posts) == 2


def test_each_thread_has_its_own_response(client: API) -> None:
    """Krakenex reads the reply from `response`, which another thread of a shared object must not change."""
    client.response = "mine"
    other = threading.Thread(target=setattr, args=(client, "response", "another's"))
    other.start()
    other.join()
    assert client.response == "mine"


def test_the_reply_is_read_and_kept_as_krakenex_does(client: API, wire: Wire) -> None:
    """`json_options` and `response` work as in krakenex."""
    wire.answers = ['{"error": [], "result": 0.1}']
    client.json_options(parse_float=Decimal)  # type: ignore[no-untyped-call]  # krakenex has no annotations
    assert client.query_private("Balance")["result"] == Decimal("0.1")
    assert client.response is not None
    assert client.response.status_code == 200


def test_one_client_serves_many_threads(wire: Wire) -> None:
    """Each thread gets its own reply; one call is in flight at a time, in the order of the nonces (I2, I5)."""
    flying, seen = threading.Lock(), []

    def answer(post: Post) -> dict[str, object]:
        assert flying.acquire(blocking=False), "two in flight"
        seen.append(post.nonce)
        flying.release()
        return ok(post.data["mine"])

    wire.answers = [answer] * 40
    client = API(KEY, SECRET, store=MemoryStore(), min_interval=0, tier="pro")
    connect(client, wire)

    def work(thread: int) -> list[Any]:
        names = [f"{thread}.{number}" for number in range(5)]
        replies = [client.query_private("AddOrder", {"mine": n}) for n in names]
        return [names, [told["result"] for told in replies]]

    with ThreadPoolExecutor(8) as threads:
        for names, told in threads.map(work, range(8)):
            assert told == names
    assert len(seen) == 40
    assert seen == sorted(set(seen))


# --- what the gate is told


@pytest.mark.parametrize(
    "method",
    ["CancelOrder", "CancelAll", "AddOrder", "EditOrder", "Balance", "Ledgers", "New"],
)
def test_cost_priority_and_durability_are_the_method_s(
    method: str, client: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is told of each method what `kraken` knows of it."""
    told: dict[str, Any] = {}
    original = gate.CallGate.attempts

    def attempts(self: Any, method: str, **options: Any) -> Any:
        told.update(options)
        return original(self, method, **options)

    monkeypatch.setattr(gate.CallGate, "attempts", attempts)
    client.query_private(method)
    assert told == {
        "cost": kraken.cost(method),
        "priority": kraken.priority(method),
        "durable": kraken.changes(method),
        "reference": "",
        "timeout": None,
    }


def test_a_new_key_is_a_starter_s_and_a_known_one_is_followed(
    store: Spied, wire: Wire
) -> None:
    """The first client's settings are the key's; who has no opinion follows, another one is an error."""
    connect(API(KEY, SECRET, store=store), wire).query_private("Balance")
    assert store.read(fingerprint(KEY)).tier == "starter"
    pro = API(OTHER, SECRET, store=store, tier="pro", unit="us", min_interval=1)
    connect(pro, wire).query_private("Balance")
    connect(API(OTHER, SECRET, store=store), wire).query_private("Balance")
    state = store.read(fingerprint(OTHER))
    assert (state.tier, state.unit, state.interval) == ("pro", "us", 1_000_000_000)
    before = len(wire.posts)
    other = connect(API(OTHER, SECRET, store=store, tier="starter"), wire)
    with pytest.raises(ConfigurationError) as caught:
        other.query_private("Balance")
    assert not isinstance(caught.value, ConnectTimeout)  # again would not help
    assert len(wire.posts) == before


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


# --- what is asked once a refusal is healed


def test_a_healed_refusal_is_verified_once(
    client: API, store: Spied, wire: Wire
) -> None:
    """After the first success that follows refusals one GetApiKeyInfo is sent; the next calls send none."""
    told = {"nonce": "1", "nonceWindow": 5}
    wire.answers = [REFUSED, REFUSED, ok("mine"), ok(told)]
    assert client.query_private("Balance")["result"] == "mine"
    client.query_private("Balance")
    sent = [post.method for post in wire.posts]
    assert sent == ["Balance"] * 3 + ["GetApiKeyInfo", "Balance"]
    assert "5 ticks" in store.read(fingerprint(KEY)).diagnosis


def test_another_call_s_success_verifies_too(store: Spied, wire: Wire) -> None:
    """Whoever's success ends the refusals asks, though it was another client's call that was refused."""
    patient = connect(API(KEY, SECRET, store=store), wire)
    patient.query_private("Balance")
    wire.answers = [REFUSED, requests.exceptions.ReadTimeout("slow")]
    with pytest.raises(requests.exceptions.ReadTimeout):
        patient.query_private("Balance")
    other = connect(API(KEY, SECRET, store=store), wire)
    other.query_private("TradeBalance")
    sent = [post.method for post in wire.posts[3:]]
    assert sent == ["TradeBalance", "GetApiKeyInfo"]


@pytest.mark.parametrize(
    "answer",
    [
        {"error": ["EGeneral:Permission denied"]},
        {"error": ["EService:Unavailable"]},
        {"error": [], "result": {}},
        "<html>",
        reply("<html>", 502),
        requests.exceptions.ReadTimeout("slow"),
        requests.exceptions.ConnectTimeout("down"),
        RuntimeError("of a session hook"),
    ],
    ids=repr,
)
def test_a_verification_that_fails_disturbs_nobody(
    answer: Any, client: API, store: Spied, wire: Wire
) -> None:
    """Whatever becomes of the question, the caller has its own reply, and its own response on the client."""
    own = reply(ok("mine"))
    wire.answers = [REFUSED, own, answer]
    assert client.query_private("AddOrder")["result"] == "mine"
    assert client.response is own
    assert [post.method for post in wire.posts[2:]] == ["GetApiKeyInfo"]
    assert outcomes(store)[:2] == ["invalid_nonce", "ok"]
    assert not store.read(fingerprint(KEY)).closed


def test_a_refused_verification_is_not_verified(
    client: API, store: Spied, wire: Wire
) -> None:
    """A question that is refused itself is not asked again: somebody waits for the reply in hand."""
    wire.answers = [REFUSED, ok("mine"), REFUSED, ok({"nonce": "1", "nonceWindow": 0})]
    assert client.query_private("Balance")["result"] == "mine"
    sent = [post.method for post in wire.posts]
    assert sent == ["Balance"] * 2 + ["GetApiKeyInfo"]


def test_verify(client: API, store: Spied, wire: Wire) -> None:
    """The client asks about its key with a nonce of its own, and follows a higher floor."""
    wire.answers = [
        lambda post: ok({"nonce": str(post.nonce + 5_000), "nonceWindow": 0})
    ]
    findings = client.verify()
    assert [finding.about for finding in findings if finding.wrong] == ["floor"]
    client.query_private("Balance")
    first, second = wire.nonces
    assert second == first + 5_001


# --- calls in doubt


def test_only_the_caller_s_own_id_is_recorded(
    client: API, store: Spied, wire: Wire
) -> None:
    """Of a call's data nothing is kept but the id of its order (I11)."""
    data = {"pair": "XBTUSD", "volume": "1.2345", "price": 37_501, "otp": "998877"}
    client.query_private("AddOrder", {**data, "cl_ord_id": "A1"})
    client.query_private("AddOrder", {**data, "userref": 7})
    client.query_private("AddOrder", {**data, "cl_ord_id": "A2", "validate": True})
    client.query_private("QueryOrders", {"cl_ord_id": "A3", "txid": "O-998877"})
    calls = store.calls()[::-1]
    assert [c.reference for c in calls] == ["cl_ord_id=A1", "userref=7", "", ""]
    kept = repr(calls) + repr(store.read(fingerprint(KEY)))
    for value in (*data.values(), "A2", "A3"):
        assert str(value) not in kept


@pytest.mark.parametrize("id", ["a/b", "//", "=", "!~", "x" * 36])
def test_no_id_of_an_order_stands_in_its_way(
    id: str, client: API, store: Spied, wire: Wire
) -> None:
    """Whatever the exchange may take as an id is sent, and on record."""
    assert client.query_private("AddOrder", {"cl_ord_id": id}) == ok()
    assert wire.posts[0].data["cl_ord_id"] == id
    assert [call.reference for call in store.calls()] == [f"cl_ord_id={id}"]


def test_reconcile(client: API, store: Spied, wire: Wire, clock: StillClock) -> None:
    """An order in doubt is looked up through the gate, two lists and the time, and never sent again."""
    wire.answers = [reply("<html>", 502)]
    with pytest.raises(requests.exceptions.HTTPError):
        client.query_private("AddOrder", {"cl_ord_id": "A1"})
    wire.answers = [ok({"open": {}}), ok({"closed": {}, "count": 0})]
    (doubt,) = client.reconcile()
    assert doubt.outcome == "unknown"
    clock.advance(120)
    wire.answers = [ok({"open": {}}), ok({"closed": {}, "count": 0})]
    (doubt,) = client.reconcile()
    assert (doubt.outcome, doubt.cl_ord_id) == ("not_executed", "A1")
    assert client.in_doubt() == []
    sent = [post.method for post in wire.posts]
    assert sent == ["AddOrder"] + ["OpenOrders", "ClosedOrders"] * 2
    assert wire.nonces == sorted(set(wire.nonces))


@pytest.mark.parametrize(
    "told", [{"error": ["EService:Unavailable"]}, {"error": [], "result": {}}, None]
)
def test_reconcile_without_the_exchange_s_time(
    told: Any, client: API, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange that does not tell its time does not tell what became of an order."""
    wire.answers = [requests.exceptions.ReadTimeout("slow")]
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.query_private("AddOrder", {"cl_ord_id": "A1"})
    monkeypatch.setattr(wire, "get", lambda *_, **__: reply(told))
    with pytest.raises(errors.ExchangeError, match="Time"):
        client.reconcile()
    assert [doubt.outcome for doubt in client.in_doubt()] == ["unknown"]


@pytest.mark.parametrize("ask", ["verify", "reconcile"])
def test_a_question_that_was_not_sent_is_ours_and_krakenex_s(
    ask: str, client: API, store: Spied, wire: Wire
) -> None:
    """A question of a closed key is not sent: its error is a ConnectTimeout too, and nothing is settled."""
    wire.answers = [requests.exceptions.ReadTimeout("slow")]
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.query_private("AddOrder", {"cl_ord_id": "A1"})
    close_key(store)
    with pytest.raises(KeyClosedError, match="closed by another") as caught:
        getattr(client, ask)()
    assert isinstance(caught.value, ConnectTimeout)
    assert len(wire.posts) == 1
    assert outcomes(store) == ["unknown"]


@pytest.mark.parametrize("ask", ["verify", "in_doubt", "reconcile"])
def test_a_question_without_a_store_is_ours_and_krakenex_s(
    ask: str, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    """Where the default store cannot be opened, no question is sent, and the error is a ConnectTimeout too (I9)."""

    def broken() -> Any:
        raise errors.StorePermissionError("not yours", "chown it")

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", broken)
    client = connect(API(KEY, SECRET), wire)
    with pytest.raises(errors.StorePermissionError, match="not yours") as caught:
        getattr(client, ask)()
    assert isinstance(caught.value, ConnectTimeout)
    assert not wire.posts


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


# --- not sent


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


# --- time limits


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (None, (5.0, 7.0)),
        (2, (5.0, 2)),
        ((1.0, 2.0), (1.0, 2.0)),
        ((1.0, None), (1.0, None)),
    ],
    ids=str,
)
def test_krakenex_s_time_limit_is_passed_on(
    given: Any, limits: tuple[float, float], store: Spied, wire: Wire
) -> None:
    """A call's own limit is used, else the client's; the connection has five seconds unless told."""
    client = connect(API(KEY, SECRET, store=store, timeout=7.0), wire)
    client.query_private("Balance", timeout=given)
    assert wire.posts[0].timeout == limits


@pytest.mark.parametrize(
    ("timeout", "given", "whole"),
    [
        (30.0, None, 60.0),
        (30.0, 5.0, 10.0),
        (30.0, (1.0, None), 60.0),
        (30.0, 3600.0, 150.0),
        (600.0, None, 1200.0),
    ],
    ids=str,
)
def test_the_whole_reply_is_due_before_the_call_may_be_overtaken(
    timeout: float,
    given: Any,
    whole: float,
    store: Spied,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole reply has twice the read limit, but never more than half the time the call may be held (I5)."""
    asked: list[float] = []

    class Noted(limits.Limit):
        def __init__(self, seconds: float, **options: Any) -> None:
            asked.append(seconds)
            super().__init__(seconds, **options)

    monkeypatch.setattr("persistent_nonce.adapters.sending.Limit", Noted)

    def held(_: Post) -> dict[str, object]:
        running = store.read(fingerprint(KEY)).running
        assert running is not None
        assert (running.until - running.since) / 1e9 >= 2 * whole
        return ok()

    client = connect(API(KEY, SECRET, store=store, timeout=timeout), Wire([held]))
    client.query_private("Balance", timeout=given)
    assert asked == [whole]


@pytest.mark.parametrize("methods", [None, {"GET", "POST"}], ids=["none", "both"])
def test_a_session_s_own_retries_never_send_a_call_twice(
    methods: set[str] | None,
) -> None:
    """A watched session keeps its adapter's settings, but a POST is sent again only if it never left."""
    session = requests.Session()
    retries = Retry(4, connect=2, allowed_methods=methods, status_forcelist=[502])
    session.mount("https://", HTTPAdapter(max_retries=retries, pool_maxsize=3))
    limits.watch(session)
    adapter: Any = session.get_adapter("https://api.kraken.com/0/private/AddOrder")
    assert type(adapter) is not HTTPAdapter
    assert (adapter._pool_maxsize, adapter.max_retries.connect) == (3, 2)
    assert adapter.max_retries.is_retry("GET", 502)
    assert not adapter.max_retries.is_retry("POST", 502)
    assert not adapter.max_retries._is_method_retryable("POST")
    limits.watch(session)
    assert session.get_adapter("https://api.kraken.com/") is adapter


def test_an_adapter_of_the_program_s_own_is_left_alone() -> None:
    """A watched session keeps an adapter of another class."""

    class Own(HTTPAdapter):
        pass

    session, own = requests.Session(), Own()
    session.mount("https://api.kraken.com", own)
    limits.watch(session)
    assert session.get_adapter("https://api.kraken.com/") is own


# --- secrets


def test_no_text_of_a_client_tells_key_or_secret(
    client: API,
    store: Spied,
    wire: Wire,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither representation nor log nor error text of any failing call tells the key or the secret (I11)."""
    told = [repr(client), str(client)]
    wire.answers = [
        REFUSED,
        ok(),
        reply("<html>", 502),
        requests.exceptions.ReadTimeout("slow"),
        REFUSED,
        REFUSED,
        REFUSED,
    ]
    with caplog.at_level(logging.DEBUG):
        for _ in range(6):
            try:
                client.query_private("AddOrder")
            except (NonceError, requests.exceptions.RequestException) as error:
                told += [str(error), repr(error)]
    told += [repr(client._find_gate()), repr(client._gates), caplog.text]
    assert "refused" in caplog.text
    assert "is closed" in "".join(told)
    for secret in (KEY, SECRET):
        assert secret not in "".join(told)
