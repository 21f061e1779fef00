"""The time limits of the drop-in krakenex client, and its session's, which never send a call twice."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from persistent_nonce.adapters import limits
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.state import fingerprint
from tests.support import wired
from tests.support.wire import KEY, SECRET, Post, Wire, ok
from tests.support.wired import Spied, connect

clock, store, wire = wired.clock, wired.store, wired.wire


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
