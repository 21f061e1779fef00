"""krakenex with every private call through the gate: one import to change, nothing else.

The reply to a refused nonce is krakenex's own; so is every exception of a call that was sent. A call that was not
sent raises our error, which is a `requests.exceptions.ConnectTimeout` too.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, TypeAlias

try:
    import krakenex
    import requests
    from urllib3.exceptions import NewConnectionError
except ImportError as error:
    raise ImportError(
        "persistent_nonce.adapters.krakenex needs krakenex: "
        "pip install 'persistent_nonce[krakenex]'"
    ) from error

from persistent_nonce import kraken, replies
from persistent_nonce.adapters.account import Account, Answer
from persistent_nonce.adapters.base import default_store, unsent
from persistent_nonce.adapters.limits import Limit, watch
from persistent_nonce.arguments import seconds_argument
from persistent_nonce.calls import Call
from persistent_nonce.doubt import Doubt
from persistent_nonce.errors import (
    CallError,
    ExchangeError,
    NonceRangeError,
    StoreError,
)
from persistent_nonce.findings import Finding
from persistent_nonce.gate import CallGate
from persistent_nonce.state import Recovery, check_unit, fingerprint
from persistent_nonce.stores.base import Store

__all__ = ["API"]

#: What a client may give as a time limit: seconds to read, or seconds to connect and to read.
Timeout: TypeAlias = float | tuple[float | None, float | None] | None

#: Seconds to wait for a connection; before it stands, nothing was sent.
_CONNECT: Final = 5.0

#: How many times the read limit the whole reply may take: each byte restarts the client's own.
_WHOLE: Final = 2.0

#: Seconds to wait for the turn of a question that nobody asked for, and for a part of its reply.
_BRIEF: Final = 5.0

#: Seconds that a call may be held, at least; it must outlast the whole reply.
_HOLD: Final = 300.0


class API(krakenex.API):
    """A krakenex.API whose private calls share one nonce, one queue and one counter with all others of the key.

    Making one touches no file; the gate is found from `self.key` at each private call.

    Args:
        key, secret: as for krakenex.
        store: where the state is kept; None is the default place, opened at the first private call.
        tier: "starter", "intermediate" or "pro"; None follows the key's own, starter at first.
        unit: the unit of the key's nonces; None follows the key's own, ms at first.
        min_interval: seconds between the starts of two calls; None follows the key's own, 0.2 at first.
        timeout: seconds to wait for a part of a reply; the whole may take twice as long.
        gate_timeout: seconds a call may wait for its turn.
        recovery: what is done about a refused nonce; None follows the key's own.

    Raises:
        ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        key: str = "",
        secret: str = "",
        *,
        store: Store | None = None,
        tier: str | None = None,
        unit: str | None = None,
        min_interval: float | None = None,
        timeout: float = 30.0,
        gate_timeout: float = 60.0,
        recovery: Recovery | None = None,
    ) -> None:
        self._replies = threading.local()
        super().__init__(key, secret)
        if min_interval is not None:
            seconds_argument("min_interval", min_interval)
        self._timeout = seconds_argument("timeout", timeout, least=0.001)
        self._store = store
        hold = max(_HOLD, 2 * _WHOLE * timeout)
        self._settings: dict[str, Any] = {
            "min_interval": min_interval,
            "rate": None if tier is None else kraken.rate(tier),
            "default_rate": kraken.rate("starter"),
            "unit": None if unit is None else check_unit(unit),
            "timeout": seconds_argument("gate_timeout", gate_timeout),
            "hold_timeout": hold,
            "recovery": recovery,
        }
        self._longest = hold / 2  # whatever time limit a single call is given
        self._gate: tuple[str, CallGate] | None = None
        # By thread, since one object may be shared: the call, and how often its bytes left, as far as is known.
        self._sending: dict[int, Call] = {}
        self._sent: dict[int, int] = {}

    def query_private(
        self, method: str, data: dict[str, Any] | None = None, timeout: Timeout = None
    ) -> Any:
        """Send a private call when it is its turn, and return krakenex's reply.

        A refused nonce is tried again, bounded and together with all other programs of the key; when that is over,
        the reply is the refusal as krakenex gives it. Nothing else is ever sent twice.

        Raises:
            CallError, StoreError, NonceRangeError: it was not sent; each is a requests.exceptions.ConnectTimeout too.
            Exception: as krakenex raises; the call may have been executed unless there was no connection.
        """
        if not self.key or not self.secret:
            return super().query_private(method, data)  # which says so
        gate = self._find_gate()
        answer, call = self._through_gate(gate, method, data, timeout)
        if call.healed:
            response = self.response  # the caller's
            ask = partial(self._ask_briefly, gate)
            Account(gate.store, gate.key, ask, self._ask_time).verify_after_refusal()
            self.response = response
        return answer.reply

    @property
    def response(self) -> Any:
        """The last response of this thread: krakenex reads the reply from here, and one object may be shared."""
        return getattr(self._replies, "response", None)

    @response.setter
    def response(self, response: Any) -> None:
        self._replies.response = response

    def in_doubt(self) -> list[Doubt]:
        """Return the calls of the key of which it is open whether the exchange executed them, oldest first.

        Raises:
            StoreError: the record cannot be read.
        """
        return self._account().in_doubt()

    def reconcile(self) -> list[Doubt]:
        """Look the calls in doubt up at the exchange and return them, with what became of those that are settled.

        An order is looked up by its `cl_ord_id` or `userref`. One that is nowhere is settled as not executed two
        minutes after the call ended, or was found here to have ended; until then, and where it cannot be told, a call
        stays in doubt. Nothing is ever sent again.

        Raises:
            ExchangeError: the exchange does not tell.
            Exception: as `query_private` raises.
        """
        return self._account().reconcile()

    def verify(self) -> list[Finding]:
        """Ask the exchange what it knows of the key, by GetApiKeyInfo, and return what was found, in words.

        A floor that is higher than ours is followed, unless it is in a finer unit: then the key is closed. What is
        wrong stays in the state as its diagnosis.

        Raises:
            ExchangeError: the exchange does not tell.
            Exception: as `query_private` raises.
        """
        return self._account().verify()

    def _account(self) -> Account:
        gate = self._find_gate()
        return Account(gate.store, gate.key, self._ask, self._ask_time)

    def _ask(self, method: str, data: dict[str, Any]) -> Answer:
        return self._through_gate(self._find_gate(), method, data, self._timeout)[0]

    def _ask_briefly(self, gate: CallGate, method: str, data: dict[str, Any]) -> Answer:
        """Ask once and for a short time: somebody waits for the reply that is in hand."""
        brief = min(_BRIEF, self._timeout)
        return self._through_gate(gate, method, data, brief, brief=_BRIEF)[0]

    def _ask_time(self) -> float:
        reply = self.query_public("Time", timeout=self._timeout)
        try:
            return float(reply["result"]["unixtime"])
        except (KeyError, TypeError, ValueError) as error:
            raise ExchangeError(
                "Time was answered without a time", "try again later"
            ) from error

    def _through_gate(
        self,
        gate: CallGate,
        method: str,
        data: dict[str, Any] | None,
        timeout: Timeout,
        brief: float | None = None,
    ) -> tuple[Answer, Call]:
        last: tuple[Answer, Call] | None = None
        for attempt in gate.attempts(
            method,
            timeout=brief,
            cost=kraken.cost(method),
            priority=kraken.priority(method),
            durable=kraken.changes(method),
            reference=kraken.reference(method, data or {}),
        ):
            with ExitStack() as stack:
                try:
                    call = stack.enter_context(attempt)
                except (CallError, StoreError, NonceRangeError) as error:
                    if last is not None:
                        return last  # the refusal in hand says more
                    raise unsent(error, requests.exceptions.ConnectTimeout) from error
                reply = self._send(call, method, dict(data or {}), timeout)
                last = Answer(reply, call.nonce), call
            if brief is not None:
                break
        assert last is not None  # noqa: S101 - there is a first attempt
        return last

    def _find_gate(self) -> CallGate:
        if self._gate is None or self._gate[0] != self.key:
            try:
                store = default_store() if self._store is None else self._store
            except StoreError as error:
                raise unsent(error, requests.exceptions.ConnectTimeout) from error
            self._gate = (self.key, CallGate(store, self.key, **self._settings))
        return self._gate[1]

    def _send(
        self, call: Call, method: str, data: dict[str, Any], timeout: Timeout
    ) -> Any:
        thread = threading.get_ident()
        self._sending[thread] = call
        self._sent[thread] = 0
        try:
            reply = super().query_private(method, data, timeout)
        except requests.exceptions.ConnectionError as error:
            # Only of the last sending does the error say that there was no connection.
            if _never_connected(error) and not self._sent[thread]:
                call.not_sent()
            raise
        finally:
            del self._sending[thread]
            sent = self._sent.pop(thread)
        errors = reply.get("error") if isinstance(reply, dict) else None
        if not isinstance(errors, list) or not all(isinstance(e, str) for e in errors):
            call.settle("unknown", "no reply of the exchange's form")
        elif sent > 1 and replies.is_invalid_nonce(errors):
            # It refuses the second sending of these bytes, since it has executed the first.
            call.settle("unknown", "; ".join(errors))
        else:
            replies.settle(call, errors)
        return reply

    def _nonce(self) -> int:
        return self._sending[threading.get_ident()].nonce

    def _sign(self, data: dict[str, Any], urlpath: str) -> Any:
        call = self._sending.get(threading.get_ident())
        try:
            if call is not None and fingerprint(self.key) != call.key:
                # Another thread set it; the nonce is the former key's.
                raise unsent(
                    CallError(
                        f"the client's key was changed while {call.method} waited",
                        "give each key a client of its own",
                    ),
                    requests.exceptions.ConnectTimeout,
                )
            return super()._sign(data, urlpath)
        except Exception:
            if call is not None:
                call.not_sent()  # as after a secret that is none
            raise

    def _query(
        self,
        urlpath: str,
        data: dict[str, Any],
        headers: dict[str, str] | None = None,
        timeout: Timeout = None,
    ) -> Any:
        if "/private/" not in urlpath:
            return super()._query(urlpath, data, headers, timeout)
        if not isinstance(timeout, tuple):
            timeout = (_CONNECT, self._timeout if timeout is None else timeout)
        watch(self.session, self.uri)
        whole = _WHOLE * (timeout[1] or self._timeout)
        thread = threading.get_ident()
        with Limit(min(whole, self._longest)) as limit:
            try:
                reply = super()._query(urlpath, data, headers, timeout)
            finally:
                # Added, since a `_query` of the program's own may come here twice.
                self._sent[thread] = self._sent.get(thread, 0) + limit.requests
            if _was_sent_again(self.response):
                self._sent[thread] = max(2, self._sent[thread])  # at least
            return reply


def _was_sent_again(response: Any) -> bool:
    """Whether an adapter of the program's own session sent the request more than once."""
    retries = getattr(getattr(response, "raw", None), "retries", None)
    return bool(getattr(response, "history", None) or getattr(retries, "history", None))


def _never_connected(error: requests.exceptions.ConnectionError) -> bool:
    """Whether no byte can have left: there was no connection."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError)
