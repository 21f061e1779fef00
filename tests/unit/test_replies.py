"""What the exchange's replies mean: every error of its documentation, and what must not be taken for one."""

from __future__ import annotations

from typing import Any, Final

import pytest

from persistent_nonce import kraken, replies
from persistent_nonce.replies import Reply, classify

AUTH: Final = (5.0, 30.0)
LIMIT: Final = (10.0, 30.0)

#: Each error of the exchange's documentation: outcome, seconds in which no call may follow, and to what they grow.
KNOWN: Final[dict[str, tuple[str, float, float]]] = {
    "WGeneral:Danger": ("ok", 0, 0),
    "EAPI:Invalid nonce": ("invalid_nonce", 0, 0),
    "EAPI:Invalid key": ("error", *AUTH),
    "EAPI:Invalid signature": ("error", *AUTH),
    "EAPI:Bad request": ("error", *AUTH),
    "EGeneral:Permission denied": ("error", *AUTH),
    "EGeneral:Unknown method": ("error", *AUTH),
    "EGeneral:Invalid arguments": ("error", 1, 1),
    "EGeneral:Invalid arguments:volume": ("error", 1, 1),
    "EAPI:Rate limit exceeded": ("error", *LIMIT),
    "EAuth:Rate limit exceeded": ("error", *LIMIT),
    "EGeneral:Too many requests": ("error", *LIMIT),
    "EService: Throttled: 1716000000": ("error", 5, 30),
    "EService:Throttled:1716000000": ("error", 5, 30),
    "EService:Throttled": ("error", 5, 30),
    "EService: Throttled": ("error", 5, 30),
    "EGeneral:Temporary lockout": ("error", 900, 900),
    "EOrder:Rate limit exceeded": ("error", 0, 0),
    "EOrder:Insufficient funds": ("error", 0, 0),
    "EOrder:Unknown order": ("error", 0, 0),
    "EQuery:Unknown asset pair": ("error", 0, 0),
    "EAPI:Feature disabled": ("error", 0, 0),
    "EService:Deadline elapsed": ("error", 0, 0),
    "EService:Market in cancel_only mode": ("error", 0, 0),
    "EService:Market in post_only mode": ("error", 0, 0),
    "EService:Unavailable": ("unknown", 0, 0),
    "EService:Busy": ("unknown", 0, 0),
    "EService:Timeout": ("unknown", 0, 0),
    "EGeneral:Internal error": ("unknown", 0, 0),
    "EGeneral:Internal error:7": ("unknown", 0, 0),
    "EService:NeverHeardOf": ("unknown", 0, 0),
    "ENeverHeardOf:anything": ("unknown", 0, 0),
    "": ("unknown", 0, 0),
}


class Told:
    """Take down what a call is told."""

    def __init__(self) -> None:
        self.settled: list[tuple[Any, ...]] = []
        self.backed_off: list[tuple[Any, ...]] = []

    def settle(self, outcome: str, said: str = "") -> None:
        """Note how the call ended."""
        self.settled.append((outcome, said))

    def back_off(
        self,
        reason: str,
        seconds: float,
        *,
        until: float = 0.0,
        most: float = 0.0,
        full: bool = False,
    ) -> None:
        """Note what is asked of the key."""
        self.backed_off.append((reason, seconds, until, most, full))


@pytest.mark.parametrize(("entry", "meaning"), KNOWN.items())
def test_each_error(entry: str, meaning: tuple[str, float, float]) -> None:
    """Each documented error has its meaning in any case of letters; what nobody has described is in doubt."""
    for text in (entry, entry.upper(), entry.lower()):
        reply = classify([text])
        assert (reply.outcome, reply.seconds, reply.most) == meaning
        assert reply.cause == (text if reply.seconds else "")
        assert reply.said == ("" if reply.outcome == "ok" else text)


@pytest.mark.parametrize(
    "entry", ["EService: Throttled: 1716000000", "eservice:throttled:1716000000"]
)
def test_the_end_of_a_throttle(entry: str) -> None:
    """It is read with and without the space; a throttle without a time names none, nor does one in another unit."""
    assert classify([entry]).until == 1716000000
    assert not classify(["EService:Throttled"]).until
    assert not classify(["EService:Throttled:1716000000000"]).until
    assert not classify(["EService:Throttled: soon"]).until


def test_only_the_keys_own_limit_fills_its_counter() -> None:
    """The trading engine's limit says nothing of the REST counter, and asks nothing of the key."""
    assert classify(["EAPI:Rate limit exceeded"]).full
    assert not classify(["EOrder:Rate limit exceeded"]).full
    assert not any(meaning.full for meaning in replies.MEANINGS[3:])


@pytest.mark.parametrize("entry", ["EAPI:Invalid nonce", "EAPI:INVALID NONCE"])
def test_invalid_nonce_in_any_case(entry: str) -> None:
    """The refusal is recognised in any case of letters, alone and among others."""
    assert replies.is_invalid_nonce([entry])
    assert replies.is_invalid_nonce(["WGeneral:Slow", entry])


@pytest.mark.parametrize(
    "errors",
    [[], ["EAPI:Invalid key"], ["EAPI:Invalid signature"], ["WAPI:Invalid nonce"]],
)
def test_not_an_invalid_nonce(errors: list[str]) -> None:
    """Other refusals of the API, a warning and silence are no invalid nonce."""
    assert not replies.is_invalid_nonce(errors)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], "ok"),
        (["WGeneral:Danger", "EOrder:Insufficient funds"], "error"),
        (["EOrder:Insufficient funds", "EAPI:Invalid nonce"], "invalid_nonce"),
        (["EAPI:Invalid nonce", "EService:Busy"], "unknown"),
        (["EService:Busy", "EAPI:Invalid nonce", "WGeneral:Danger"], "unknown"),
    ],
)
def test_the_most_doubtful_entry_decides(errors: list[str], expected: str) -> None:
    """Of several entries the one that promises least is believed."""
    assert classify(errors).outcome == expected


def test_the_longest_back_off_holds() -> None:
    """Of several entries the one that asks for most time is the cause; all but warnings are kept for the record."""
    errors = ["WGeneral:Slow", "EAPI:Invalid key", "EGeneral:Temporary lockout"]
    assert classify(errors) == Reply(
        "error",
        said="EAPI:Invalid key; EGeneral:Temporary lockout",
        cause="EGeneral:Temporary lockout",
        seconds=kraken.LOCKOUT,
        most=kraken.LOCKOUT,
    )


def test_a_call_is_told() -> None:
    """A call learns its outcome, and the key what is asked of it; a reply that asks nothing sets no back-off."""
    told = Told()
    replies.settle(told, [])
    replies.settle(told, ["EOrder:Rate limit exceeded"])
    replies.settle(told, ["EAPI:Rate limit exceeded"])
    replies.settle(told, ["EService:Throttled: 1716000000"])
    assert told.settled == [
        ("ok", ""),
        ("error", "EOrder:Rate limit exceeded"),
        ("error", "EAPI:Rate limit exceeded"),
        ("error", "EService:Throttled: 1716000000"),
    ]
    assert told.backed_off == [
        ("EAPI:Rate limit exceeded", 10.0, 0.0, 30.0, True),
        ("EService:Throttled: 1716000000", 5.0, 1716000000.0, 30.0, False),
    ]
