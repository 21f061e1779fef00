"""What is kept for a key: its row as an immutable value, with the units and settings in it.

Stored times are integers of nanoseconds, and each field says of which clock: `wall` survives a reboot, `mono`
is CLOCK_MONOTONIC of the boot named in `boot`. Nonces are integers of the key's unit (ticks).
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from persistent_nonce.arguments import check_label, seconds_argument, whole_argument
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import ConfigurationError

__all__ = [
    "DEFAULT_UNIT",
    "MAX_NONCE",
    "UNITS",
    "URGENT",
    "BackOff",
    "CallRecord",
    "Change",
    "Changed",
    "KeyState",
    "Outcome",
    "Rate",
    "Recovery",
    "Running",
    "Turn",
    "Waiting",
    "Wanted",
    "check_unit",
    "fingerprint",
]

#: The greatest nonce: SQLite's integers are signed, and so is `int64` in Kraken's schemas.
MAX_NONCE: Final = 2**63 - 1

#: Nanoseconds in one tick of each unit of nonces, coarse to fine.
UNITS: Final[Mapping[str, int]] = MappingProxyType(
    {"s": SECOND, "ms": 1_000_000, "us": 1_000, "10ns": 10, "ns": 1}
)

#: The unit of a key for which nobody has asked for one: krakenex's own.
DEFAULT_UNIT: Final = "ms"

#: The priority from which a call (a cancelling one) is exempt from the first back-off after a refused nonce.
URGENT: Final = 20

_DEFAULT_INTERVAL: Final = SECOND // 5
_DEFAULT_ATTEMPTS: Final = 3
_DEFAULT_MAX_LEAD: Final = 900 * SECOND
_LARGEST_BURST: Final = 1_000_000
_MOST_ATTEMPTS: Final = 100

#: How a call ended; `in_flight` until it has. The last two were in doubt, and looked up since.
Outcome: TypeAlias = Literal[
    "in_flight",
    "ok",
    "error",
    "invalid_nonce",
    "unknown",
    "interrupted",
    "not_sent",
    "executed",
    "not_executed",
]


def fingerprint(key: str) -> str:
    """Return how a key is known here: 16 hex digits of the SHA-256 of its public part (I11).

    Raises:
        ConfigurationError: the key is empty or not a string.
    """
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError(
            "the API key is empty, or no string",
            "pass the public part of the key, as a string",
        )
    return hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).hexdigest()[:16]


def check_unit(unit: str) -> str:
    """Return `unit`, or raise ConfigurationError if there is no such unit."""
    if unit not in UNITS:
        raise ConfigurationError(
            f"unknown unit {unit!r:.40}", f"one of {', '.join(UNITS)}"
        )
    return unit


@dataclass(frozen=True, slots=True)
class Rate:
    """A shared call counter: `burst` cost units at once, then one every `every` seconds.

    For an exchange that counts up to a maximum and decays, `every = 1 / decay` and `burst = maximum - 1`
    (with the maximum itself the network's jitter still put 11 of 120 calls over).

    Attributes:
        every: seconds in which one unit of cost drains.
        burst: units of cost that fit at once.
        tier: what the exchange calls this rate; for display.
    """

    every: float
    burst: int
    tier: str = ""

    def __post_init__(self) -> None:
        seconds_argument("Rate.every", self.every)
        whole_argument("Rate.burst", self.burst, least=1, most=_LARGEST_BURST)
        seconds_argument("Rate.every times Rate.burst", self.every * self.burst)
        if self.tier:
            check_label(self.tier)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is done about a refused nonce, once for all processes of the key.

    Attributes:
        jump: seconds the mark is moved ahead after the first refusal.
        wait: the n-th retry follows after `wait * (n - 1)` seconds, the first after 2.
        factor: each further refusal in a row jumps so many times as far.
        attempts: refusals in a row after which the key is closed; stored with the key.
        max_lead: seconds a nonce may lie ahead of the clock (I10); stored with the key.
        greatest: the greatest nonce that the exchange takes; no jump, floor or issue goes beyond. Stored with the key.
    """

    jump: float = 60.0
    wait: float = 30.0
    factor: float = 10.0
    attempts: int = _DEFAULT_ATTEMPTS
    max_lead: float = _DEFAULT_MAX_LEAD / SECOND
    greatest: int = MAX_NONCE

    def __post_init__(self) -> None:
        seconds_argument("Recovery.jump", self.jump)
        seconds_argument("Recovery.wait", self.wait)
        seconds_argument("Recovery.factor", self.factor, least=1.0)
        seconds_argument("Recovery.max_lead", self.max_lead)
        whole_argument("Recovery.attempts", self.attempts, least=1, most=_MOST_ATTEMPTS)
        whole_argument("Recovery.greatest", self.greatest, least=1, most=MAX_NONCE)


class Wanted(NamedTuple):
    """What a caller asks of a key's stored settings; None is no opinion."""

    unit: str | None = None
    label: str | None = None
    min_interval: int | None = None  # ns
    rate: Rate | None = None
    default_rate: Rate | None = None  # only for a key for which nobody has said one
    default_unit: str | None = None  # likewise
    attempts: int | None = None
    max_lead: int | None = None  # ns
    greatest: int | None = None


class Waiting(NamedTuple):
    """A call in the queue."""

    id: str  # session and counter, made before the transaction that stores it
    session: str
    method: str
    cost: int
    priority: int
    since: int  # mono
    ticket: int = 0  # order of arrival, given by `join`
    late: bool = False  # let its turn pass: behind everybody until it moves again
    passed: int = 0  # ns of its turn that went by before another call came first
    overtaken: int = 0  # later calls that went first, while it was the oldest
    reference: str = ""  # the caller's own id of what it places


class Turn(NamedTuple):
    """Whose turn it is while nothing runs."""

    id: str
    since: int  # mono, the moment from which it may start


class Running(NamedTuple):
    """The call in flight."""

    id: str
    session: str
    method: str
    cost: int
    nonce: int
    at: int  # wall
    since: int  # mono
    until: int  # mono; past it the call is overtaken
    waited: int  # ns in the queue
    reference: str = ""


class BackOff(NamedTuple):
    """What a reply asks of all calls of its key."""

    reason: str
    length: int  # ns
    until: int = 0  # wall; if it is later than the length's end
    most: int = 0  # ns to which the length grows when back-offs follow each other soon
    full: bool = False  # the exchange's call counter is, until the end


class KeyState(NamedTuple):
    """One row: everything that is kept for a key, in the order of its columns.

    A named tuple, since it leaves SQLite as a tuple and is rebuilt for each nonce: `_replace` takes a tenth of
    the time of `dataclasses.replace`.
    """

    key: str
    label: str = ""
    unit: str | None = None  # None: nobody has asked for one, and none was issued
    nonce: int = 0  # the high-water mark
    seen: int = 0  # the greatest clock reading of any issue, in ticks
    offset: int = 0  # how far ahead of the clock a floor lay when it was set on purpose
    ceiling: int = 0  # committed with fsync; a later boot starts above it
    synced: int = 0  # that fsync returned: nonces up to here need no other (I4)
    boot: str = ""  # the boot that wrote ceiling, synced and every mono time
    min_interval: int | None = None  # ns
    every: int | None = None  # ns; None: no call counter
    burst: int = 0
    tier: str = ""
    attempts: int | None = None
    max_lead: int | None = None  # ns
    greatest: int | None = None  # nonce that the exchange takes
    started: int = 0  # mono, when the last call started
    tat: int = 0  # mono, theoretical arrival time (GCRA, ITU-T I.371)
    not_before: int = 0  # wall, end of a back-off or lockout
    set_at: int = 0  # wall, when that was set
    reason: str = ""  # why
    refusals: int = 0  # invalid-nonce replies in a row
    jumped_at: int = 0  # the mark after the last jump
    diagnosis: str = ""  # what was concluded, in words
    healed: str = ""  # the call whose success ended the last refusals in a row
    ticket: int = 0  # the last one given
    settled: int = 0  # call records settled so far
    exempt: bool = False  # urgent calls need not wait for the back-off
    closed: bool = False  # until raise_floor, set_unit or reopen
    turn: Turn | None = None
    queue: tuple[Waiting, ...] = ()
    running: Running | None = None

    @property
    def tick(self) -> int:
        """Nanoseconds in one tick of this key."""
        return UNITS[self.unit or DEFAULT_UNIT]

    @property
    def interval(self) -> int:
        """Nanoseconds between the starts of two calls."""
        return _DEFAULT_INTERVAL if self.min_interval is None else self.min_interval

    @property
    def most_attempts(self) -> int:
        """Refusals in a row after which the key is closed."""
        return _DEFAULT_ATTEMPTS if self.attempts is None else self.attempts

    @property
    def bound(self) -> int:
        """The greatest nonce that may be issued as things stand (I10)."""
        lead = _DEFAULT_MAX_LEAD if self.max_lead is None else self.max_lead
        return min(self.seen + self.offset + lead // self.tick, self.greatest_nonce)

    @property
    def greatest_nonce(self) -> int:
        """The greatest nonce that this store can keep, and the exchange takes."""
        return MAX_NONCE if self.greatest is None else self.greatest

    @property
    def rate(self) -> Rate | None:
        """The stored call counter, if there is one."""
        if self.every is None:
            return None
        return Rate(self.every / SECOND, self.burst, self.tier)

    def marked(self, unit: str, nonce: int, seen: int) -> "KeyState":
        """Return the state after a nonce: `_replace` of these three, in a quarter of its time."""
        fields = self[:2] + (unit, nonce, seen) + self[5:]  # noqa: RUF005 - twice as fast as unpacking
        return tuple.__new__(KeyState, fields)

    def lead(self, wall: int) -> float:
        """Return how many seconds the mark lies ahead of the clock reading `wall` (ns); negative is behind."""
        return (self.nonce * self.tick - wall) / SECOND


class CallRecord(NamedTuple):
    """A call as it is remembered."""

    id: str
    key: str
    session: str
    method: str
    cost: int
    nonce: int
    at: int  # wall, when it started
    waited: int  # ns in the queue
    took: int | None  # ns in flight; None while that is not known
    outcome: Outcome
    serial: int  # which settled record of the key it is; 0 while in doubt
    since: int = 0  # mono, when it started
    boot: str = ""  # in which `since` counts
    reference: str = ""  # the caller's own id of what it places
    said: str = ""  # the exchange's error


class Changed(NamedTuple):
    """What a change comes to: the new state, and the call records to write with it."""

    state: KeyState
    records: tuple[CallRecord, ...] = ()


#: A pure function of the state and the time. It may be called more than once; if it raises, nothing is stored.
Change: TypeAlias = Callable[[KeyState, Now], Changed]
