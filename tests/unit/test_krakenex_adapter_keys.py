"""How a drop-in krakenex client is made, with its store, its key and its settings, and keeps its secrets."""

from __future__ import annotations

import binascii
import itertools
import logging
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from requests.exceptions import ConnectTimeout

from persistent_nonce import Recovery, errors
from persistent_nonce.adapters import base
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import ConfigurationError, NonceError
from persistent_nonce.state import KeyState, fingerprint
from tests.support import wired
from tests.support.wire import KEY, REFUSED, SECRET, Wire, ok, reply
from tests.support.wired import Forbidden, Spied, connect, outcomes

OTHER: Final = "the public part of another key"

clock, store = wired.clock, wired.store
wire, client, homeless = wired.wire, wired.client, wired.homeless


def forbidden(*_: object, **__: object) -> Any:
    """Fail: nobody was to call this."""
    raise AssertionError("called")


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


def test_a_signal_handler_calls_while_the_default_store_is_opened(
    monkeypatch: pytest.MonkeyPatch, wire: Wire, store: Spied
) -> None:
    """Whoever is called in the middle of the first opening, on the same thread, does not wait for it for ever (I8)."""
    client = connect(API(KEY, SECRET), wire)

    def opening() -> Spied:
        monkeypatch.setattr(base, "open_store", lambda: store)
        client.query_private("CancelAll")
        return store

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", opening)
    client.query_private("Balance")
    assert outcomes(store) == ["ok", "ok"]


def test_a_default_store_that_cannot_be_opened_is_a_call_not_sent(
    homeless: API, wire: Wire
) -> None:
    """An error in opening the default store is ours and a ConnectTimeout, and nothing was sent (I9)."""
    with pytest.raises(errors.StorePermissionError, match="not yours") as caught:
        homeless.query_private("Balance")
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
        {"recovery": {"attempts": 2}},
    ],
    ids=str,
)
def test_an_unusable_argument_is_refused(wrong: dict[str, Any]) -> None:
    """The constructor refuses what cannot be used."""
    with pytest.raises(ConfigurationError):
        API(KEY, SECRET, **wrong)


def test_a_path_in_a_stores_place_is_refused() -> None:
    """It is, at the first private call, with what would do."""
    path: Any = "nonces.db"
    with pytest.raises(ConfigurationError, match=r"SQLiteStore\(path\)"):
        API(KEY, SECRET, store=path).query_private("Balance")


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


# --- settings


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
