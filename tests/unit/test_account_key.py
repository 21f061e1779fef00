"""What an account asks about its key, finds wrong with it and follows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from persistent_nonce.errors import ExchangeError, StoreUnavailableError
from persistent_nonce.nonces import issue
from persistent_nonce.state import Changed
from persistent_nonce.steps import run
from persistent_nonce.stores.base import Store
from tests.support import accounts
from tests.support.accounts import Exchange, account, put
from tests.support.states import KEY

clock, either, exchange = accounts.clock, accounts.either, accounts.exchange


def key_info(nonce: Any, **fields: Any) -> dict[str, Any]:
    """Return what GetApiKeyInfo answers."""
    return {"nonce": str(nonce), "nonceWindow": 0} | fields


@pytest.fixture
def asked(either: Store, exchange: Exchange) -> int:
    """Return the nonce of a question that is on its way, with a right answer to it."""
    state = either.update(KEY, lambda state, now: Changed(issue(state, now)))
    exchange.nonce = state.nonce
    exchange.says(GetApiKeyInfo=key_info(state.nonce))
    return state.nonce


def test_all_is_right(
    either: Store, exchange: Exchange, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One question, four findings, nothing wrong: nothing is logged, and the state is as it was."""
    before = either.read(KEY)
    findings = run(account(either, exchange).verify())
    assert [f.wrong for f in findings] == [False] * 4
    assert exchange.asked == [("GetApiKeyInfo", {})]
    assert either.read(KEY) == before
    assert not caplog.records


def test_a_higher_floor_is_followed_and_logged(
    either: Store, exchange: Exchange, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is returned, logged as a warning, and kept as the diagnosis; the mark follows."""
    exchange.says(GetApiKeyInfo=key_info(asked + 5_000, nonceWindow=9))
    with caplog.at_level(logging.WARNING):
        findings = run(account(either, exchange).verify())
    wrong = [finding for finding in findings if finding.wrong]
    assert [finding.about for finding in wrong] == ["floor", "nonce window"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    state = either.read(KEY)
    assert state.nonce == asked + 5_000
    for finding in wrong:
        assert finding.said in caplog.text
        assert finding.said in state.diagnosis


def test_the_nonce_of_the_question_is_known(
    either: Store, exchange: Exchange, asked: int
) -> None:
    """The exchange names the nonce of the question itself, which is not on record while it is asked."""
    put(either, "before", nonce=asked - 9, outcome="ok", serial=1)
    put(either, "after", nonce=asked + 9, outcome="ok", serial=2)
    floor, *_ = run(account(either, exchange).verify())
    assert not floor.wrong


@pytest.mark.parametrize(
    "used", ["", "soon", None, "nan", "inf", "-5", 0, "1716000000000", 1e300, []]
)
def test_a_last_use_that_cannot_be_read(
    either: Store, exchange: Exchange, asked: int, used: Any
) -> None:
    """What is no Unix time is taken for nothing said, and keeps nothing else from being verified."""
    exchange.says(GetApiKeyInfo=key_info(asked + 1, lastUsed=used))
    findings = {f.about: f for f in run(account(either, exchange).verify())}
    assert not findings["last use"].wrong
    assert either.read(KEY).nonce == asked + 1


@pytest.mark.parametrize(
    "result",
    [{}, None, [], {"nonce": "x", "nonceWindow": 0}, {"nonce": "5"}, {"nonce": None}],
    ids=str,
)
def test_an_answer_without_a_nonce(
    either: Store, exchange: Exchange, asked: int, result: Any
) -> None:
    """An answer that tells no nonce or no window is an ExchangeError with a hint, and changes nothing."""
    exchange.replies["GetApiKeyInfo"] = [{"error": [], "result": result}]
    before = either.read(KEY)
    with pytest.raises(ExchangeError) as caught:
        run(account(either, exchange).verify())
    assert caught.value.hint
    assert either.read(KEY) == before


@pytest.mark.parametrize(
    "failure",
    [
        {"error": ["EGeneral:Permission denied"]},
        {"error": [], "result": {}},
        RuntimeError("of the client, with a secret in it"),
        StoreUnavailableError("disk is full"),
    ],
    ids=str,
)
def test_verifying_after_a_refusal_raises_nothing(
    either: Store,
    exchange: Exchange,
    asked: int,
    failure: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller's reply is in hand: what fails is logged as a warning, by its kind alone (I11)."""
    exchange.replies["GetApiKeyInfo"] = [failure]
    with caplog.at_level(logging.WARNING):
        run(account(either, exchange).verify_after_refusal())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "could not be verified" in record.getMessage()
    assert "secret" not in caplog.text


def test_an_interrupt_of_verifying_passes(
    either: Store, exchange: Exchange, asked: int
) -> None:
    """Who presses Ctrl-C is heard."""
    exchange.replies["GetApiKeyInfo"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run(account(either, exchange).verify_after_refusal())
