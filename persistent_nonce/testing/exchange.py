"""The exchange without a network: the life of each request, on the clock it is given.

A request passes through `arrive`, which judges it at once, `execute`, which carries it
out, and `leave`, after which the client may send the next. Whoever calls these decides
how much time lies between.
"""

from __future__ import annotations

import base64
import itertools
import secrets
import threading
from collections.abc import Callable, Collection

from persistent_nonce.arguments import seconds_argument
from persistent_nonce.clock import SECOND, Clock, nanoseconds
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.kraken import TIERS
from persistent_nonce.state import MAX_NONCE, UNITS, check_unit
from persistent_nonce.testing.account import Account
from persistent_nonce.testing.answers import PRIVATE, Call
from persistent_nonce.testing.faults import (
    BadGateway,
    DelayedExecution,
    EngineLimit,
    Fault,
    Faults,
    Lockout,
    Throttled,
    Unavailable,
)
from persistent_nonce.testing.markets import PUBLIC
from persistent_nonce.testing.orders import Book, Order, RefusedError
from persistent_nonce.testing.request import Request, read_form, read_nonce
from persistent_nonce.testing.rules import ERRORS, Rules
from persistent_nonce.testing.visits import Stats, Visit, summarise

__all__ = ["Exchange"]


class Exchange:
    """The accounts of the exchange and what arrives for them, from any thread.

    Args:
        clock: what it takes its time from.
        tier: of a key for which none is given.
        nonce_window: of every key, in ticks.
        lockout_after: failures within 60 s that lock a key out.
        counts_itself: whether GetApiKeyInfo tells of its own call too.
        relax: names of rules that are not enforced, see `rules`.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        tier: str = "starter",
        nonce_window: int = 0,
        lockout_after: int = 5,
        counts_itself: bool = True,
        relax: Collection[str] = (),
    ) -> None:
        if nonce_window < 0:
            raise ConfigurationError("nonce_window must be 0 or more")
        self._clock = clock
        self._tier = _known(tier)
        self._nonce_window = nonce_window
        self._counts_itself = counts_itself
        self._rules = Rules(relax=relax, lockout_after=lockout_after)
        self._faults = Faults()
        self._lock = threading.RLock()
        self._accounts: dict[str, Account] = {}
        self._visits: list[Visit] = []
        self._in_flight: dict[int, Visit] = {}
        self._max_in_flight = 0
        self._delayed: list[tuple[int, Visit]] = []
        self._serial = itertools.count(1)

    def add_key(self, *, tier: str | None = None) -> tuple[str, str]:
        """Open an account and return its new key and secret."""
        key = base64.b64encode(secrets.token_bytes(42)).decode()
        secret = base64.b64encode(secrets.token_bytes(64)).decode()
        with self._lock:
            self._accounts[key] = Account(
                key=key,
                secret=secret,
                tier=TIERS[self._tier if tier is None else _known(tier)],
                nonce_window=self._nonce_window,
                counts_itself=self._counts_itself,
                book=Book(self._serial),
                counted_at=self._clock.mono(),
            )
        return key, secret

    def inject(
        self, fault: Fault, *, times: int, method: str | None, key: str | None
    ) -> None:
        """Order a fault for the next `times` calls that keep every rule.

        `method` and `key` narrow it down to calls of one method or of one key.
        """
        with self._lock:
            if key is not None:
                self._account(key)
            self._faults.add(fault, times=times, method=method, key=key)

    def raise_floor(
        self, key: str, *, to: int | None, by_seconds: float | None, unit: str
    ) -> int:
        """Accept a foreign program's nonce for the key, and return its floor.

        The nonce is `to` ticks, or the time `by_seconds` from now in ticks of `unit`.
        A floor is never lowered.
        """
        tick = UNITS[check_unit(unit)]
        if by_seconds is not None:
            ahead = nanoseconds(seconds_argument("by_seconds", by_seconds))
            by_clock = (self._clock.wall() + ahead) // tick
        if (to is None) == (by_seconds is None):
            raise ConfigurationError("give either to or by_seconds")
        nonce = by_clock if to is None else to
        if not 0 <= nonce <= MAX_NONCE:
            raise ConfigurationError("a nonce lies between 0 and 2**63 - 1")
        with self._lock:
            account = self._account(key)
            account.accept(nonce)
            account.last_used = self._clock.wall() // SECOND
            return account.floor

    def arrive(
        self, request: Request, *, alive: Callable[[], bool] = lambda: True
    ) -> Visit:
        """Judge a complete request, and take note of it.

        `alive` tells at any later time whether its client is still connected: a
        request whose client has gone is in nobody's way.
        """
        with self._lock:
            now = self._clock.mono()
            self._catch_up(now)
            visit = Visit(
                number=len(self._visits),
                at=now,
                sent=self._clock.wall(),
                key=request.key,
                method=request.method,
                nonce=_nonce(request),
                alive=alive,
                account=self._accounts.get(request.key),
            )
            self._visits.append(visit)
            self._take_off(visit)
            self._rules.judge(visit, request)
            if visit.verdict == "accepted":
                visit.fault = self._faults.take(visit.method, visit.key)
                _obstruct(visit)
            return visit

    def execute(self, visit: Visit) -> dict[str, object]:
        """Return the reply, after carrying the call out unless a fault prevents it."""
        with self._lock:
            now = self._clock.mono()
            self._catch_up(now)
            match visit.fault:
                case DelayedExecution(seconds):
                    self._delayed.append((now + nanoseconds(seconds), visit))
                case BadGateway(executed=False) | Unavailable(executed=False):
                    pass
                case EngineLimit():
                    visit.error = "EOrder:Rate limit exceeded"
                case _:
                    _carry_out(visit, now)
            if isinstance(visit.fault, Unavailable):
                return {"error": ["EService:Unavailable"]}
            if visit.error:
                return {"error": [visit.error]}
            return {"error": [], "result": visit.result}

    def leave(self, visit: Visit) -> None:
        """End the request's flight; a second time changes nothing."""
        with self._lock:
            self._in_flight.pop(visit.number, None)

    def public(self, method: str, *, query: str = "") -> dict[str, object]:
        """Answer a public call; `query` is what follows `?` in its URL."""
        if method not in PUBLIC:
            return {"error": ["EGeneral:Unknown method"]}
        try:
            result = PUBLIC[method](read_form(query), self._clock.wall())
        except RefusedError as refusal:
            return {"error": [str(refusal)]}
        except ValueError:
            return {"error": ["EGeneral:Invalid arguments"]}
        return {"error": [], "result": result}

    def stats(self, key: str | None) -> Stats:
        """Return the figures of one key, or of everything that arrived."""
        with self._lock:
            self._catch_up(self._clock.mono())
            if key is None:
                floors = [account.floor for account in self._accounts.values()]
                return summarise(
                    self._visits,
                    max_in_flight=self._max_in_flight,
                    nonce=max(floors, default=0),
                )
            account = self._account(key)
            return summarise(
                [visit for visit in self._visits if visit.account is account],
                max_in_flight=account.max_in_flight,
                nonce=account.floor,
            )

    def orders(self, key: str) -> list[Order]:
        """Return what was executed for a key, the first order first."""
        with self._lock:
            self._catch_up(self._clock.mono())
            return self._account(key).book.all()

    def _account(self, key: str) -> Account:
        if key not in self._accounts:
            raise ConfigurationError("the simulator has no such key")
        return self._accounts[key]

    def _take_off(self, visit: Visit) -> None:
        account = visit.account
        if account is None or not visit.alive():
            return  # a killed client's request, late: it overlaps with nobody
        others = [other for other in self._in_flight.values() if other.alive()]
        own = [other.number for other in others if other.account is account]
        visit.overlapped = tuple(own)
        account.max_in_flight = max(account.max_in_flight, 1 + len(own))
        self._max_in_flight = max(self._max_in_flight, 1 + len(others))
        self._in_flight[visit.number] = visit

    def _catch_up(self, now: int) -> None:
        due = [(at, visit.number) for at, visit in self._delayed if at <= now]
        self._delayed = [entry for entry in self._delayed if entry[0] > now]
        for at, number in sorted(due):
            _carry_out(self._visits[number], at)


def _obstruct(visit: Visit) -> None:
    """Let a fault of the exchange itself refuse the request that it struck."""
    if visit.account is None:
        return
    match visit.fault:
        case Throttled(seconds):
            # Rounded up: a client that waits until then has waited long enough.
            until = -(-(visit.sent + nanoseconds(seconds)) // SECOND)
            visit.account.throttled_until = until
            visit.verdict = "throttled"
            visit.error = f"{ERRORS['throttled']}{until}"
        case Lockout():
            visit.account.lock_out(visit.at)
            visit.verdict, visit.error = "locked_out", ERRORS["locked_out"]


def _carry_out(visit: Visit, now: int) -> None:
    if visit.account is None or visit.verdict != "accepted":
        return
    call = Call(
        account=visit.account,
        fields=visit.fields,
        sent=visit.sent,
        now=visit.sent + now - visit.at,
    )
    try:
        visit.result = PRIVATE[visit.method](call)
        visit.executed = True
    except RefusedError as refusal:
        visit.error = str(refusal)


def _nonce(request: Request) -> int | None:
    try:
        return read_nonce(request.fields().get("nonce", ""))
    except ValueError:
        return None


def _known(tier: str) -> str:
    if tier not in TIERS:
        raise ConfigurationError("unknown tier", f"one of {', '.join(TIERS)}")
    return tier
