"""The record of what arrived at the exchange, which the tests judge by."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from persistent_nonce.testing.account import Account
from persistent_nonce.testing.faults import Fault

__all__ = ["Arrival", "Ruling", "Stats", "Visit", "summarise"]

#: What became of a request when it arrived.
Ruling = Literal[
    "accepted",
    "bad_request",
    "bad_signature",
    "invalid_key",
    "invalid_nonce",
    "locked_out",
    "no_user_agent",
    "overlap",
    "rate_limited",
    "throttled",
    "unknown_method",
]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One private request, as the exchange saw it.

    Attributes:
        number: in the order of arrival over all keys, from 0.
        at: nanoseconds of the exchange's monotonic clock when it was complete.
        key: the API key.
        method: what was asked.
        nonce: as it was given; None if it was no number.
        verdict: `accepted`, or why it was refused.
        overlapped: numbers of the key's requests then in flight whose clients were
            still connected, as this one's was.
        fault: the fault that struck it.
        executed: whether it has been carried out, at once or late.
        completed: whether the whole reply went to a client that was still connected;
            a request without may be one of a client that was killed.
    """

    number: int
    at: int
    key: str
    method: str
    nonce: int | None
    verdict: Ruling
    overlapped: tuple[int, ...]
    fault: Fault | None
    executed: bool
    completed: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """What arrived from one key, or from all.

    Attributes:
        requests: private requests that arrived complete.
        accepted: those that passed every rule.
        refused_nonce: refused with `EAPI:Invalid nonce`.
        rate_limited: refused because the key's counter was over its tier.
        locked_out: refused in a lockout.
        bad_signature: refused because the signature does not fit.
        overlaps: requests that arrived while another of the same key was in flight.
        max_in_flight: the most in flight at once; for all keys together, in parallel.
        nonce: the greatest one accepted.
        arrivals: every request, in the order of arrival.
    """

    requests: int
    accepted: int
    refused_nonce: int
    rate_limited: int
    locked_out: int
    bad_signature: int
    overlaps: int
    max_in_flight: int
    nonce: int
    arrivals: tuple[Arrival, ...]


@dataclass(slots=True, eq=False)
class Visit:
    """A request at the exchange, from its arrival to its reply.

    `alive` tells whether its client is still connected; `sent` is when it arrived, in
    nanoseconds of the wall clock; the rest is as in Arrival.
    """

    number: int
    at: int
    sent: int
    key: str
    method: str
    alive: Callable[[], bool]
    account: Account | None = None
    fields: dict[str, str] = field(default_factory=dict)
    nonce: int | None = None
    verdict: Ruling = "accepted"
    error: str = ""
    overlapped: tuple[int, ...] = ()
    fault: Fault | None = None
    result: object = None
    executed: bool = False
    completed: bool = False

    def arrival(self) -> Arrival:
        """Return the record of it, as it is now."""
        return Arrival(
            number=self.number,
            at=self.at,
            key=self.key,
            method=self.method,
            nonce=self.nonce,
            verdict=self.verdict,
            overlapped=self.overlapped,
            fault=self.fault,
            executed=self.executed,
            completed=self.completed,
        )


def summarise(visits: Collection[Visit], *, max_in_flight: int, nonce: int) -> Stats:
    """Return the figures of `visits`."""
    verdicts = [visit.verdict for visit in visits]
    return Stats(
        requests=len(visits),
        accepted=verdicts.count("accepted"),
        refused_nonce=verdicts.count("invalid_nonce"),
        rate_limited=verdicts.count("rate_limited"),
        locked_out=verdicts.count("locked_out"),
        bad_signature=verdicts.count("bad_signature"),
        overlaps=sum(1 for visit in visits if visit.overlapped),
        max_in_flight=max_in_flight,
        nonce=nonce,
        arrivals=tuple(visit.arrival() for visit in visits),
    )
