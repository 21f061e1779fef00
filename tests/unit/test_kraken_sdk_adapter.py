"""The drop-in clients of python-kraken-sdk without a network: which there are, what they ask for, what they refuse."""

from __future__ import annotations

import importlib
import inspect
import math
import pickle
import pkgutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import kraken
import pytest
import requests
from kraken import base_api
from kraken.exceptions import KrakenRateLimitExceededError
from requests.adapters import HTTPAdapter

from persistent_nonce import Recovery, errors
from persistent_nonce.adapters import base, kraken_sdk, limits, spot_clients
from persistent_nonce.adapters.kraken_sdk import SpotClient
from persistent_nonce.stores.memory import MemoryStore
from tests.support.wire import KEY, SECRET

BALANCE = "/0/private/Balance"


def forbidden(*_: object, **__: object) -> Any:
    """Fail: nobody was to call this."""
    raise AssertionError("called")


class ReachedError(Exception):
    """A call has come where it is to be sent."""


def clients(of: type) -> list[type]:
    """Return `of` and all classes of the package that inherit from it."""
    found, heirs = [of], list[type](type.__subclasses__(of))
    for other in heirs:
        found += clients(other)
    return [client for client in found if client.__module__.startswith("kraken.")]


def test_every_client_of_the_package_has_its_drop_in() -> None:
    """Whatever of python-kraken-sdk inherits from its two base clients is here, by its own name."""
    for module in pkgutil.walk_packages(kraken.__path__, "kraken."):
        if module.name != "kraken.mcp":  # a server, which needs more packages
            importlib.import_module(module.name)
    found = set(clients(base_api.SpotClient))
    assert len(found) >= 10
    assert {client.__name__ for client in found} == set(kraken_sdk.__all__)
    for client in found:
        made = getattr(kraken_sdk, client.__name__)
        assert issubclass(made, client)
        blocks = not issubclass(client, base_api.SpotAsyncClient)
        own = SpotClient if blocks else kraken_sdk.SpotAsyncClient
        assert made.request is own.request
        assert not inspect.isabstract(made)


@pytest.mark.parametrize("name", ["check_renew_session", "check_response_data"])
@pytest.mark.parametrize("client", ["SpotClient", "SpotAsyncClient"])
def test_the_private_methods_that_are_overridden_exist(name: str, client: str) -> None:
    """This version of python-kraken-sdk has each private method in whose place one of ours stands."""
    mangled = f"_{client}__{name}"
    assert mangled in vars(getattr(base_api, client))
    assert mangled in vars(getattr(spot_clients, client))


def test_the_constructor_does_no_io(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Making a client opens no store and makes neither file nor connection."""
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "nonces.db"))
    monkeypatch.setattr(base, "open_store", forbidden)
    monkeypatch.setattr("socket.socket.connect", forbidden)
    for name in ("SpotClient", "User", "Trade", "Funding", "Earn", "Market"):
        make = getattr(kraken_sdk, name)
        made = make(KEY, SECRET, tier="pro", recovery=Recovery(attempts=5))
        assert (made._key, made._secret) == (KEY, SECRET)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"tier": "gold"}, {"unit": "min"}, {"min_interval": -1}, {"gate_timeout": -1}],
    ids=str,
)
def test_an_unusable_argument_is_refused(wrong: dict[str, Any]) -> None:
    """The constructor refuses what cannot be used."""
    with pytest.raises(errors.ConfigurationError):
        kraken_sdk.User(KEY, SECRET, **wrong)


def test_a_nonce_outside_of_a_call_is_refused() -> None:
    """Without a turn there is no nonce, of the clock's neither: the hint names the way (I5)."""
    client = SpotClient(KEY, SECRET, store=MemoryStore())
    for draw in (
        client.get_nonce,
        lambda: client._prepare_request(method="POST", uri=BALANCE),
    ):
        with pytest.raises(errors.ConfigurationError, match="request"):
            draw()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/0/private/AddOrder", "AddOrder"),
        ("/0/private/Earn/Strategies", "Earn/Strategies"),
        ("/0/private/Balance?a=/private/b", "Balance"),
        ("/0/public/Time", "0/public/Time"),
    ],
)
def test_the_name_of_a_method(url: str, name: str) -> None:
    """A call is known by what the exchange calls it; a public one that is signed, by its path."""
    store = MemoryStore()
    client = SpotClient(KEY, "x", store=store)
    with pytest.raises(ValueError, match=r"base64|padding|characters"):
        client.request("POST", url)
    assert [(c.method, c.outcome) for c in store.calls()] == [(name, "not_sent")]


@pytest.mark.parametrize(
    ("default", "given", "whole"),
    [
        (10, 10, 20.0),
        (30, 10, 60.0),
        (30, 5, 10.0),
        (10, 3600, 150.0),
        (600, 10, 1200.0),
        (10, None, 150.0),
        (10, (1, 2), 150.0),
    ],
)
def test_the_whole_reply_is_due_before_the_call_may_be_overtaken(
    default: int, given: Any, whole: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole reply has twice the caller's limit, but never more than half the time the call may be held (I5)."""
    asked: list[float] = []

    class Noted:
        def __init__(self, seconds: float, **_: object) -> None:
            asked.append(seconds)
            raise ReachedError

    monkeypatch.setattr("persistent_nonce.adapters.sending.Limit", Noted)
    monkeypatch.setattr(base_api.SpotClient, "TIMEOUT", default)
    client = SpotClient(KEY, SECRET, store=MemoryStore())
    with pytest.raises(ReachedError):
        client.request("POST", BALANCE, timeout=given)
    assert asked == [whole]
    assert math.isfinite(whole)


def test_a_watched_session_is_never_without_an_adapter() -> None:
    """Another thread that looks an adapter up finds one, in the order there was, while the session is watched."""

    class Fixed(OrderedDict[str, Any]):
        pop = forbidden
        move_to_end = forbidden

    session = requests.Session()
    before = list(session.adapters)
    session.adapters = Fixed(session.adapters)
    for url in ("https://api.kraken.com", "http://127.0.0.1"):
        limits.watch(session)
        assert type(session.get_adapter(url)) is not HTTPAdapter
    assert list(session.adapters) == before


def test_what_was_not_sent_is_ours_and_python_kraken_sdk_s() -> None:
    """An error before sending is of both families; its message is ours alone, and survives pickling."""
    store = MemoryStore()
    client = SpotClient(KEY, SECRET, store=store, recovery=Recovery(greatest=5))
    with pytest.raises(errors.NonceRangeError) as caught:
        client.request("POST", BALANCE)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    for error in (caught.value, copy):
        assert isinstance(error, KrakenRateLimitExceededError)
        assert error.args == (caught.value.args[0], caught.value.hint)
        assert "Details" not in str(error)
    assert type(copy) is type(caught.value)
