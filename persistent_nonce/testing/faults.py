"""What can go wrong between a client and the exchange, on demand.

What the network does takes real seconds, what the exchange does takes seconds of its
own clock, which `time_scale` speeds up.
"""

from __future__ import annotations

from dataclasses import dataclass

from persistent_nonce.arguments import seconds_argument
from persistent_nonce.errors import ConfigurationError

__all__ = [
    "BadGateway",
    "DelayedExecution",
    "DrippingReply",
    "EngineLimit",
    "Fault",
    "Faults",
    "Lockout",
    "LostReply",
    "Throttled",
    "Unavailable",
]


@dataclass(frozen=True, slots=True)
class LostReply:
    """Execute the call, then close the connection without a byte of a reply.

    Attributes:
        after: real seconds to hold the connection open first: a server that hangs.
    """

    after: float = 0.0

    def __post_init__(self) -> None:
        seconds_argument("after", self.after)


@dataclass(frozen=True, slots=True)
class DrippingReply:
    """Execute the call and send the reply one byte at a time.

    Attributes:
        interval: real seconds between two bytes.
    """

    interval: float = 0.05

    def __post_init__(self) -> None:
        seconds_argument("interval", self.interval)


@dataclass(frozen=True, slots=True)
class DelayedExecution:
    """Answer HTTP 504 and execute the call later.

    Attributes:
        seconds: how much later, on the exchange's clock.
    """

    seconds: float = 30.0

    def __post_init__(self) -> None:
        seconds_argument("seconds", self.seconds)


@dataclass(frozen=True, slots=True)
class BadGateway:
    """Answer with a page of HTML instead of a reply.

    Attributes:
        status: of HTTP; with 200 it is a reply that does not parse.
        executed: whether the call was executed before.
    """

    status: int = 502
    executed: bool = False


@dataclass(frozen=True, slots=True)
class Throttled:
    """Refuse the call and all later ones until a time that the error names.

    Attributes:
        seconds: until then, on the exchange's clock, rounded up to a whole second.
    """

    seconds: float = 5.0

    def __post_init__(self) -> None:
        seconds_argument("seconds", self.seconds)


@dataclass(frozen=True, slots=True)
class Lockout:
    """Refuse the call and all later ones until 15 minutes have passed without any."""


@dataclass(frozen=True, slots=True)
class EngineLimit:
    """Answer `EOrder:Rate limit exceeded` without executing the call.

    The trading engine counts for itself, by account and pair: nothing else is refused.
    """


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Answer `EService:Unavailable`, which says nothing about what was done.

    Attributes:
        executed: whether the call was executed.
    """

    executed: bool = False


Fault = (
    LostReply
    | DrippingReply
    | DelayedExecution
    | BadGateway
    | Throttled
    | Lockout
    | EngineLimit
    | Unavailable
)


@dataclass(slots=True)
class _Ordered:
    fault: Fault
    times: int
    method: str | None
    key: str | None


class Faults:
    """The faults that were ordered and have not struck yet, in the order given."""

    def __init__(self) -> None:
        self._ordered: list[_Ordered] = []

    def add(
        self, fault: Fault, *, times: int, method: str | None, key: str | None
    ) -> None:
        """Order `fault` for the next `times` calls of `method` by `key` (None: any)."""
        if not isinstance(fault, Fault):
            raise ConfigurationError("a fault is an object, such as LostReply()")
        if times < 1:
            raise ConfigurationError("times must be 1 or more")
        self._ordered.append(_Ordered(fault, times, method, key))

    def take(self, method: str, key: str) -> Fault | None:
        """Return the first fault ordered for such a call and count it down."""
        for entry in self._ordered:
            if entry.method in (None, method) and entry.key in (None, key):
                entry.times -= 1
                if not entry.times:
                    self._ordered.remove(entry)
                return entry.fault
        return None
