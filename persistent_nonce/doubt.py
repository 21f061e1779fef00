"""Calls in doubt, and what the orders at the exchange say of them: pure functions.

Nothing is concluded from a clock that may have been stepped: how old a call is at least, and when it was sent at the
earliest, is reckoned from the wall clock and from the monotonic one, whichever is the more careful.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.state import CallRecord, Outcome

__all__ = [
    "Doubt",
    "conclude",
    "doubt_of",
    "ended_by",
    "remembered",
    "rivals",
    "sent_after",
    "split",
]

#: Nanoseconds after its end in which a call may still be executed: a deadline is at most 60 s away, and a call that the
#: exchange has taken was seen to be executed up to a minute later.
_OVER: Final = 120 * SECOND

#: Nanoseconds by which the clocks of two machines may differ unnoticed, beside the time of a question.
_MARGIN: Final = 10 * SECOND

#: Nanoseconds by which a clock is believed to have been wrong, where nothing shows that it was right.
_STEP: Final = 86_400 * SECOND

#: Methods that place an order which bears the caller's id.
_PLACING: Final = frozenset({"AddOrder", "EditOrder"})

#: Outcomes of calls that placed nothing.
_NOTHING: Final = frozenset({"error", "invalid_nonce", "not_sent", "not_executed"})


class Doubt(NamedTuple):
    """A call of which it was open whether the exchange executed it.

    Attributes:
        id: of its record.
        method: what was called.
        nonce: its nonce.
        at: when it started, Unix time.
        outcome: "unknown"; "interrupted", its process died; since it was looked up "executed" or "not_executed".
        cl_ord_id: the caller's own id of the order, if it gave one.
        userref: likewise.
    """

    id: str
    method: str
    nonce: int
    at: float
    outcome: Outcome
    cl_ord_id: str | None = None
    userref: int | None = None


def split(reference: str) -> tuple[str, str]:
    """Return name and value of a reference, such as "cl_ord_id=A1"; empty if it has no such form."""
    name, equals, value = reference.partition("=")
    return (name, value) if equals else ("", "")


def doubt_of(call: CallRecord) -> Doubt:
    """Return what callers are told of a call."""
    name, value = split(call.reference)
    return Doubt(
        id=call.id,
        method=call.method,
        nonce=call.nonce,
        at=call.at / SECOND,
        outcome=call.outcome,
        cl_ord_id=value if name == "cl_ord_id" else None,
        userref=int(value) if name == "userref" else None,
    )


def _same_boot(call: CallRecord, now: Now) -> bool:
    return bool(call.boot) and call.boot == now.boot


def _reach(call: CallRecord, now: Now) -> int:
    """Return by how many ns it may be wrong when `call` was sent: the clocks tell that only where they agree."""
    by_wall, by_mono = now.wall - call.at, now.mono - call.since
    agree = _same_boot(call, now) and abs(by_wall - by_mono) <= _MARGIN
    return _MARGIN if agree else _STEP


def ended_by(call: CallRecord, now: Now) -> CallRecord:
    """Return the record of a call whose process is gone: nobody saw its end, but by `now` it has ended.

    It may have been sent just before, however long ago it began. What ended with a reboot needs no note of that.
    """
    if call.took is not None or not _same_boot(call, now):
        return call
    return call._replace(took=max(0, now.mono - call.since))


def _youngest(call: CallRecord, now: Now) -> int:
    """Return how many ns ago `call` ended at least; of one from before a reboot, since when the machine runs."""
    by_wall = now.wall - call.at - (call.took or 0)
    if not _same_boot(call, now):
        return max(0, min(now.mono, by_wall))
    if call.took is None:
        return 0
    return max(0, min(now.mono - call.since - call.took, by_wall))


def sent_after(call: CallRecord, now: Now, exchange: int) -> int:
    """Return before which moment of the exchange's wall clock, in ns, `call` was surely not sent.

    Args:
        exchange: what that clock showed, not after `now`.
    """
    age = now.wall - call.at
    if _same_boot(call, now):
        age = max(age, now.mono - call.since)
    return exchange - max(0, age) - _reach(call, now)


def rivals(
    call: CallRecord, records: Iterable[CallRecord], now: Now
) -> list[CallRecord]:
    """Return the other calls that may have placed an order which could be taken for that of `call`.

    Those that came before it too, if theirs may have been executed late.
    """
    return [
        other
        for other in records
        if other.id != call.id
        and other.method in _PLACING
        and other.reference == call.reference
        and other.outcome not in _NOTHING
        and (other.nonce > call.nonce or _reaches(other, call, now))
    ]


def _reaches(other: CallRecord, call: CallRecord, now: Now) -> bool:
    """Whether an order of `other` may have been opened no earlier than `call` was sent, as far as the clocks tell."""
    later, reach = other.at - call.at, _reach(call, now)
    if other.boot and other.boot == call.boot:
        later = max(later, other.since - call.since)
    else:
        reach = _STEP
    return later + (other.took or 0) + _OVER + _MARGIN + reach >= 0


def remembered(call: CallRecord, records: Iterable[CallRecord], now: Now) -> bool:
    """Whether every rival of `call` is on record still, of whose id there may be many; old records are dropped."""
    if split(call.reference)[0] != "userref":
        return True
    settled = [other for other in records if other.serial]
    return min((other.serial for other in settled), default=1) <= 1 or not all(
        _reaches(other, call, now) for other in settled
    )


def conclude(
    call: CallRecord, opened: Sequence[int], others: int, now: Now
) -> Outcome | None:
    """Return what became of `call`, or None while that cannot be told.

    Executed, if there are more orders than the others can have placed; not executed, if there is none and it is too
    late for one. Whatever lies between stays in doubt: to take an executed call for one that was not costs money.

    Args:
        opened: when the orders with its reference were opened, those before it was sent left out.
        others: how many other calls may have placed one of them.
        now: before the orders were looked up.
    """
    if len(opened) > others:
        return "executed"
    if not opened and _youngest(call, now) >= _OVER:
        return "not_executed"
    return None
