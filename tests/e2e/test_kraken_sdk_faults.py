"""python-kraken-sdk calls that go wrong, anywhere: what the caller gets, and what is recorded."""

from __future__ import annotations

import binascii
import pickle
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import pytest
import requests
from kraken.exceptions import KrakenInvalidNonceError, KrakenRateLimitExceededError
from urllib3.poolmanager import pool_classes_by_scheme

from persistent_nonce import CallGate
from persistent_nonce.adapters import base
from persistent_nonce.errors import (
    CallError,
    GateTimeoutError,
    LockedOutError,
    NonceError,
    StoreUnavailableError,
)
from persistent_nonce.testing import (
    BadGateway,
    Credentials,
    DelayedExecution,
    DrippingReply,
    Fault,
    KrakenSimulator,
    Lockout,
    LostReply,
    Unavailable,
)
from tests.support import sdk, trading
from tests.support.resending import Answer, Eager, between
from tests.support.sdk import Asker, Desk, file_server
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD, Aside, until

#: Real seconds that a client of these tests waits for a reply, where it is to wait in vain.
SHORT: Final = 0.5

HANG: Final = LostReply(after=3600)
DRIP: Final = DrippingReply(interval=0.02)

#: What each kind of client raises.
CUT: Final = {
    "sync": requests.exceptions.ConnectionError,
    "async": aiohttp.ServerDisconnectedError,
}
LATE: Final = {"sync": requests.exceptions.ReadTimeout, "async": TimeoutError}
UNREADABLE: Final = {"sync": ValueError, "async": aiohttp.ContentTypeError}
NOBODY: Final = {
    "sync": requests.exceptions.ConnectionError,
    "async": aiohttp.ClientConnectorError,
}
STATUS: Final = {"sync": Exception, "async": Exception}


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything, 20 times as fast."""
    with KrakenSimulator(time_scale=20, latency=0) as simulator:
        yield simulator


account, store = trading.account, trading.store
desk = sdk.desk


def hasten(asker: Asker, seconds: float) -> dict[str, Any]:
    """Give a client a time limit, and return what a call needs: old versions take it only from a call that has one."""
    asker.client.TIMEOUT = seconds
    return {"timeout": seconds}


@pytest.mark.parametrize(
    ("fault", "errors", "executed"),
    [
        (BadGateway(502), STATUS, False),
        (BadGateway(520, executed=True), STATUS, True),
        (DelayedExecution(seconds=0.0), STATUS, True),
        (BadGateway(200), UNREADABLE, False),
        (BadGateway(200, executed=True), UNREADABLE, True),
        (LostReply(), CUT, True),
        (HANG, LATE, True),
        (DRIP, LATE, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("age", [300, -1], ids=["one session", "sessions anew"])
def test_a_fault_passes_unchanged_in_doubt_and_unrepeated(
    fault: Fault,
    errors: dict[str, type[Exception]],
    executed: bool,
    age: int,
    desk: Desk,
) -> None:
    """The caller gets python-kraken-sdk's own exception, the record says unknown, and the request arrived once (I5)."""
    desk.exchange.inject(fault)
    with desk.sdk() as asker:
        asker.client.MAX_SESSION_AGE = age
        limit = hasten(asker, SHORT if errors is LATE else GUARD)
        begun = time.monotonic()
        with pytest.raises(errors[desk.kind]) as caught:
            asker.ask("AddOrder", LIMIT, **limit)
        assert time.monotonic() - begun < GUARD
        assert not isinstance(caught.value, NonceError)
        if errors is STATUS:
            status = getattr(fault, "status", 504)
            assert str(caught.value).startswith(f"{status} - ")
        assert desk.stats.requests == 1
        assert desk.orders == executed
        assert desk.outcomes == [("AddOrder", "unknown")]
        hasten(asker, GUARD)
        assert asker.ask("Balance")
    assert desk.stats.overlaps == 0


def test_no_time_limit_outlasts_the_turn(desk: Desk) -> None:
    """However long a call may take for its caller, it ends before it may be overtaken (I5)."""
    desk.exchange.inject(HANG)
    with desk.sdk() as asker:
        assert asker.client._gates._longest * 2 == 300.0
        asker.client._gates._longest = SHORT
        with pytest.raises(LATE[desk.kind]):
            asker.ask("AddOrder", LIMIT, **hasten(asker, 3600))
    assert desk.outcomes == [("AddOrder", "unknown")]


def test_a_verification_that_hangs_holds_the_caller_up_briefly(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question after a healed refusal, which nobody asked for, is given up early; the caller has its reply."""
    monkeypatch.setattr(base, "_BRIEF", SHORT)
    desk.exchange.raise_floor(desk.account.key, by_seconds=45, unit="10ns")
    desk.exchange.inject(HANG, method="GetApiKeyInfo")
    with desk.sdk() as asker:
        asker.client.TIMEOUT = 3600
        begun = time.monotonic()
        assert asker.ask("Balance")
        assert time.monotonic() - begun < GUARD
    assert desk.outcomes == [
        ("Balance", "invalid_nonce"),
        ("Balance", "ok"),
        ("GetApiKeyInfo", "unknown"),
    ]


@pytest.mark.parametrize("custom", [True, False])
def test_an_exchange_that_is_unavailable_leaves_a_doubt(
    custom: bool, desk: Desk
) -> None:
    """What the exchange says is recorded, also where it is returned raw; the doubt is settled by a look there."""
    desk.exchange.inject(Unavailable(executed=True))
    with desk.sdk(use_custom_exceptions=custom) as asker:
        order = {**LIMIT, "cl_ord_id": "A1"}
        if custom:
            with pytest.raises(Exception, match="offline"):
                asker.ask("AddOrder", order)
        else:
            assert asker.read(asker.ask("AddOrder", order))[0] == 200
        (doubt,) = asker.result(asker.client.in_doubt())
        assert (doubt.outcome, doubt.cl_ord_id) == ("unknown", "A1")
        (doubt,) = asker.result(asker.client.reconcile())
        assert doubt.outcome == "executed"
        assert asker.result(asker.client.in_doubt()) == []
        findings = asker.result(asker.client.verify())
        assert [finding for finding in findings if finding.wrong] == []
    assert desk.stats.overlaps == 0


def test_a_file_is_a_reply(desk: Desk) -> None:
    """A report that is asked for arrives as it is and is recorded as well; of another method it says nothing."""
    with (
        file_server(b"PK\x03\x04 a file") as url,
        desk.sdk(url) as asker,
    ):
        got = asker.ask("RetrieveExport", {"id": "X"}, return_raw=True)
        assert asker.read(got) == (200, "PK\x03\x04 a file")
        asker.ask("AddOrder", LIMIT, return_raw=True)
    told = [("RetrieveExport", "ok"), ("AddOrder", "unknown")]
    assert desk.outcomes == told


def test_a_page_that_looks_like_a_reply_is_none(desk: Desk) -> None:
    """What comes with another status than the exchange's own says nothing of the call, whatever it looks like."""
    with (
        file_server(b'{"error": [], "result": {}}', status=502) as url,
        desk.sdk(url) as asker,
        pytest.raises(Exception, match="502 - "),
    ):
        asker.ask("AddOrder", LIMIT)
    assert desk.outcomes == [("AddOrder", "unknown")]


# --- not sent


def test_without_a_connection_nothing_was_sent(desk: Desk) -> None:
    """A refused connection is the client's own error, recorded as not sent; its nonce is burnt."""
    with desk.sdk() as asker, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, and nobody listens
        asker.point_to(f"http://127.0.0.1:{unused.getsockname()[1]}")
        for _ in range(2):
            with pytest.raises(NOBODY[desk.kind]) as caught:
                asker.ask("AddOrder", LIMIT)
            assert not isinstance(caught.value, NonceError)
        asker.point_to(desk.exchange.url)
        asker.ask("AddOrder", LIMIT)
    told = [outcome for _, outcome in desk.outcomes]
    assert told == ["not_sent", "not_sent", "ok"]
    assert len({call.nonce for call in desk.store.calls(desk.key)}) == 3


def test_what_cannot_be_signed_is_not_sent(desk: Desk) -> None:
    """A secret that is none never leaves; without credentials python-kraken-sdk says so, and no nonce is drawn."""
    with desk.sdk() as asker:
        asker.be(Credentials(desk.account.key, "x"))
        with pytest.raises(binascii.Error):
            asker.ask("AddOrder", LIMIT)
        for key, secret in (
            ("", desk.account.secret),
            (desk.account.key, ""),
            ("", ""),
        ):
            asker.be(Credentials(key, secret))
            with pytest.raises(ValueError, match="Missing credentials"):
                asker.ask("AddOrder", LIMIT)
    assert desk.outcomes == [("AddOrder", "not_sent")]
    assert desk.exchange.stats().requests == 0


def check_families(error: BaseException, kind: type[NonceError]) -> None:
    """Check that an error and its copy are ours and python-kraken-sdk's, with our words alone."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    for one in (error, copy):
        assert isinstance(one, kind)
        assert isinstance(one, KrakenRateLimitExceededError)
        assert str(one) == str(error)
        assert "Details" not in str(one)
        assert one.hint in str(one)
    assert type(copy) is type(error)


def test_what_the_gate_keeps_back_is_an_error_of_both_families(desk: Desk) -> None:
    """No turn in time, a lockout, a broken store: not sent, of our own class and of python-kraken-sdk's, picklable."""
    with desk.sdk(gate_timeout=0.5) as asker:
        with (
            CallGate(desk.store, desk.account.key).call("holds the key"),
            pytest.raises(GateTimeoutError, match="holds the key") as caught,
        ):
            Aside(lambda: asker.ask("AddOrder", LIMIT)).result()
        check_families(caught.value, GateTimeoutError)
        assert isinstance(caught.value, TimeoutError)
    with desk.sdk(gate_timeout=60.0) as asker:
        desk.exchange.inject(Lockout())
        with pytest.raises(Exception, match="lockout"):
            asker.ask("AddOrder", LIMIT)
        with pytest.raises(LockedOutError, match="lockout") as locked:
            asker.ask("AddOrder", LIMIT)
        check_families(locked.value, LockedOutError)
    desk.store.close()
    with desk.sdk() as asker, pytest.raises(StoreUnavailableError) as broken:
        asker.ask("AddOrder", LIMIT)
    check_families(broken.value, StoreUnavailableError)
    assert desk.stats.requests == 1


def test_a_key_changed_while_a_call_waits_is_not_signed_with(desk: Desk) -> None:
    """A nonce of one key is never sent with another, which another thread put in while the call waited (I1)."""
    other = desk.exchange.add_key()
    with desk.sdk() as asker:
        with CallGate(desk.store, desk.account.key).call("holds the key"):
            waiting = Aside(lambda: asker.ask("AddOrder", LIMIT))
            until(lambda: desk.store.read(desk.key).queue, "the call waits")
            asker.be(other)
        with pytest.raises(CallError, match="key was changed") as caught:
            waiting.result()
    check_families(caught.value, CallError)
    assert desk.outcomes[1:] == [("AddOrder", "not_sent")]
    assert desk.exchange.stats().requests == 0


# --- sent twice


@pytest.mark.parametrize("age", [300, -1], ids=["one session", "sessions anew"])
@pytest.mark.parametrize("answer", ["307", "307 to nowhere"])
def test_an_order_that_is_sent_on_is_in_doubt(
    age: int, answer: Answer, desk: Desk
) -> None:
    """Bytes that left before are never taken for refused or not sent: there is one order, and one doubt (I5)."""
    error = NOBODY[desk.kind] if "nowhere" in answer else KrakenInvalidNonceError
    with between(desk.exchange.url, answer) as way, desk.sdk(way) as asker:
        asker.client.MAX_SESSION_AGE = age
        with pytest.raises(error):
            asker.ask("AddOrder", LIMIT)
    assert desk.orders == 1
    assert desk.outcomes == [("AddOrder", "unknown")]


class Special(Eager):
    """One whose connections cannot tell of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.poolmanager.pool_classes_by_scheme = dict(pool_classes_by_scheme)


@pytest.mark.parametrize("desk", ["sync"], indirect=True)
@pytest.mark.parametrize(
    ("adapter", "answer"),
    [
        (Eager, "502"),
        (Eager, "lost"),
        (Eager, "502 and gone"),
        (Special, "502"),
        (Special, "lost"),
    ],
)
def test_an_adapter_of_the_program_s_own_leaves_a_doubt(
    adapter: type[Eager], answer: Answer, desk: Desk
) -> None:
    """An order that a program's own adapter sends again is one order and one doubt (I5)."""
    with between(desk.exchange.url, answer) as way, desk.sdk(way) as asker:
        asker.client._SpotClient__session.mount("http://", adapter())
        with pytest.raises((KrakenInvalidNonceError, requests.ConnectionError)):
            asker.ask("AddOrder", LIMIT)
    assert desk.orders == 1
    assert desk.outcomes == [("AddOrder", "unknown")]


@pytest.mark.parametrize("desk", ["async"], indirect=True)
def test_a_closed_session_sends_nothing(desk: Desk) -> None:
    """A call of a client that was closed raises aiohttp's own error and is recorded as not sent."""
    with desk.sdk() as asker:
        asker.result(asker.client.close())
        with pytest.raises(RuntimeError, match="closed"):
            asker.ask("AddOrder", LIMIT)
    assert desk.outcomes == [("AddOrder", "not_sent")]
