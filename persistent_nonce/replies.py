"""What Kraken's replies mean for a call and for its key: one table of errors, as data.

From the exchange's public documentation and its clients' issue trackers; nothing here keeps state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from persistent_nonce.kraken import LOCKOUT
from persistent_nonce.state import Outcome

__all__ = ["MEANINGS", "Meaning", "Reply", "classify", "is_invalid_nonce", "settle"]

#: What an error says of its call: a warning, it was done; refused for its nonce; not executed; not executed, and
#: repeating it feeds a lockout; in doubt, perhaps executed.
Kind = Literal["warning", "invalid_nonce", "not_executed", "fatal", "in_doubt"]


class Meaning(NamedTuple):
    """What an error of the exchange means.

    Attributes:
        beginning: of the error, in small letters and without spaces.
        kind: what it says of its call.
        seconds: for how long no call of the key may follow.
        most: to how many seconds that grows when errors follow each other soon.
        full: whether the key's REST counter is full.
    """

    beginning: str
    kind: Kind
    seconds: float = 0.0
    most: float = 0.0
    full: bool = False


class Reply(NamedTuple):
    """What the `error` list of a reply means.

    Attributes:
        outcome: how the call ended.
        said: the errors, without warnings.
        cause: the error for which no call of the key may follow for a time.
        seconds, most, full: as of a Meaning.
        until: Unix time, if the error names one.
    """

    outcome: Outcome
    said: str = ""
    cause: str = ""
    seconds: float = 0.0
    most: float = 0.0
    full: bool = False
    until: float = 0.0


class Called(Protocol):
    """What is told of a reply: a call of a gate."""

    def settle(self, outcome: Outcome, said: str = "") -> None:
        """Say how the call ended."""

    def back_off(
        self,
        reason: str,
        seconds: float,
        *,
        until: float = 0.0,
        most: float = 0.0,
        full: bool = False,
    ) -> None:
        """Let no call of the key start for a time."""


# The first that fits decides. What fits none is in doubt: an error that nobody has described does not say that nothing
# happened. The exchange's own counter has drained by a third after the 10 s; after five failures within a minute a
# lockout is to be feared, which 5 s that double up to 30 avoid. Arguments are mostly one bot's own mistake, so they
# hold the others up no longer than a second.
MEANINGS: Final[tuple[Meaning, ...]] = (
    Meaning("w", "warning"),
    Meaning("eapi:invalidnonce", "invalid_nonce"),
    Meaning("eapi:ratelimitexceeded", "not_executed", 10.0, 30.0, full=True),
    Meaning("eauth:ratelimitexceeded", "not_executed", 10.0, 30.0),
    Meaning("egeneral:toomanyrequests", "not_executed", 10.0, 30.0),
    Meaning("eservice:throttled", "not_executed", 5.0, 30.0),
    Meaning("egeneral:temporarylockout", "not_executed", LOCKOUT, LOCKOUT),
    Meaning("eapi:invalidkey", "fatal", 5.0, 30.0),
    Meaning("eapi:invalidsignature", "fatal", 5.0, 30.0),
    Meaning("eapi:badrequest", "fatal", 5.0, 30.0),
    Meaning("egeneral:permissiondenied", "fatal", 5.0, 30.0),
    Meaning("egeneral:unknownmethod", "fatal", 5.0, 30.0),
    Meaning("egeneral:invalidarguments", "fatal", 1.0, 1.0),
    Meaning("eapi:", "not_executed"),
    Meaning("eauth:", "not_executed"),
    Meaning("eorder:", "not_executed"),
    Meaning("equery:", "not_executed"),
    Meaning("eservice:deadlineelapsed", "not_executed"),
    Meaning("eservice:marketin", "not_executed"),
    Meaning("eservice:unavailable", "in_doubt"),
    Meaning("eservice:busy", "in_doubt"),
    Meaning("eservice:timeout", "in_doubt"),
    Meaning("egeneral:internalerror", "in_doubt"),
    Meaning("", "in_doubt"),
)

# From the surest to the most doubtful: of several entries the worst one counts.
_OUTCOMES: Final[Mapping[Kind, Outcome]] = {
    "warning": "ok",
    "fatal": "error",
    "not_executed": "error",
    "invalid_nonce": "invalid_nonce",
    "in_doubt": "unknown",
}
_SEVERITY: Final[tuple[Kind, ...]] = tuple(_OUTCOMES)

#: The time in "EService:Throttled: 1716000000", in seconds.
_UNTIL: Final = re.compile(r"throttled:(\d{10})$")


def is_invalid_nonce(errors: Iterable[str]) -> bool:
    """Tell whether a reply's `error` list refuses the nonce, in any case of letters."""
    return any(_meaning(entry).kind == "invalid_nonce" for entry in errors)


def classify(errors: Sequence[str]) -> Reply:
    """Return what a reply's `error` list says of the call that it answers, and asks of all calls of the key.

    It holds for a call that was sent once: an invalid nonce in reply to bytes that were sent before means that the
    earlier sending was probably executed.
    """
    meanings = [_meaning(entry) for entry in errors]
    kinds: list[Kind] = ["warning", *(meaning.kind for meaning in meanings)]
    kind = max(kinds, key=_SEVERITY.index)
    told = [
        entry
        for entry, meaning in zip(errors, meanings, strict=True)
        if meaning.kind != "warning"
    ]
    reply = Reply(_OUTCOMES[kind], "; ".join(told))
    longest = max(meanings, key=lambda meaning: meaning.seconds, default=None)
    if longest is None or not longest.seconds:
        return reply
    cause = errors[meanings.index(longest)]
    named = _UNTIL.search(_fold(cause))
    return reply._replace(
        cause=cause,
        seconds=longest.seconds,
        most=longest.most,
        full=longest.full,
        until=float(named[1]) if named else 0.0,
    )


def settle(call: Called, errors: Sequence[str]) -> Reply:
    """Tell `call` what a reply's `error` list means for it, and for all calls of its key."""
    reply = classify(errors)
    call.settle(reply.outcome, reply.said)
    if reply.cause:
        call.back_off(
            reply.cause,
            reply.seconds,
            until=reply.until,
            most=reply.most,
            full=reply.full,
        )
    return reply


def _fold(entry: str) -> str:
    # The exchange writes both "EService:Throttled" and "EService: Throttled".
    return "".join(entry.casefold().split())


def _meaning(entry: str) -> Meaning:
    folded = _fold(entry)
    return next(m for m in MEANINGS if folded.startswith(m.beginning))
