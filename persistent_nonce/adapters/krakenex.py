"""krakenex with every private call through the gate: one import to change, nothing else.

The reply to a refused nonce is krakenex's own; so is every exception of a call that was sent. A call that was not
sent raises our error, which is a `requests.exceptions.ConnectTimeout` too.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Final, TypeAlias

try:
    import krakenex
    import requests
except ImportError as error:
    raise ImportError(
        "persistent_nonce.adapters.krakenex needs krakenex: "
        "pip install 'persistent_nonce[krakenex]'"
    ) from error

from persistent_nonce.adapters.asking import Asking, time_of
from persistent_nonce.adapters.base import WHOLE, Gates
from persistent_nonce.adapters.limits import was_sent_again, watch
from persistent_nonce.adapters.sending import Sending, current
from persistent_nonce.arguments import seconds_argument
from persistent_nonce.gate import CallGate
from persistent_nonce.state import Recovery
from persistent_nonce.stores.base import Store

__all__ = ["API"]

#: What a client may give as a time limit: seconds to read, or seconds to connect and to read.
Timeout: TypeAlias = float | tuple[float | None, float | None] | None

#: Seconds to wait for a connection; before it stands, nothing was sent.
_CONNECT: Final = 5.0


class API(Asking, krakenex.API):
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
        recovery: what is done about a refused nonce; None is `Recovery()`, but for what is stored with the key.

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
        self._timeout = seconds_argument("timeout", timeout, least=0.001)
        self._gates = Gates(
            requests.exceptions.ConnectTimeout,
            store=store,
            tier=tier,
            unit=unit,
            min_interval=min_interval,
            gate_timeout=gate_timeout,
            recovery=recovery,
            whole=WHOLE * timeout,
            native="ms",
        )

    def query_private(
        self, method: str, data: dict[str, Any] | None = None, timeout: Timeout = None
    ) -> Any:
        """Send a private call when it is its turn, and return krakenex's reply.

        A refused nonce is tried again, bounded and together with all other programs of the key; when that is over,
        the reply is the refusal as krakenex gives it. Nothing else is ever sent twice.

        Raises:
            CallError, StoreError, NonceRangeError: it was not sent; each is a requests.exceptions.ConnectTimeout too.
            ConfigurationError: it was not sent, since a setting contradicts what is stored or cannot be used.
            Exception: as krakenex raises; the call may have been executed unless there was no connection.
        """
        if not self.key or not self.secret:
            return super().query_private(method, data)  # which says so
        gate = self._find_gate()
        send = partial(self._send, method, data or {}, timeout)
        sending = self._gates.passes(gate, method, data or {}, send)
        response = self.response  # the caller's
        self._after(sending, gate)
        self.response = response
        return sending.result()

    @property
    def response(self) -> Any:
        """The last response of this thread: krakenex reads the reply from here, and one object may be shared."""
        return getattr(self._replies, "response", None)

    @response.setter
    def response(self, response: Any) -> None:
        self._replies.response = response

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_replies": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _replies=threading.local())

    def _find_gate(self) -> CallGate:
        return self._gates.of(self.key)

    def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        send = partial(self._send, method, data, self._timeout)
        return self._gates.passes(gate, method, data, send, brief=brief)

    def _ask_time(self) -> float:
        return time_of(self.query_public("Time", timeout=self._timeout))

    def _send(
        self, method: str, data: dict[str, Any], timeout: Timeout, sending: Sending[Any]
    ) -> Any:
        reply = super().query_private(method, dict(data), timeout)
        sending.replied(reply)
        return reply

    def _nonce(self) -> int:
        sending = current()
        assert sending is not None  # noqa: S101 - krakenex asks for it in a call only
        return sending.call.nonce

    def _sign(self, data: dict[str, Any], urlpath: str) -> Any:
        signed = super()._sign(data, urlpath)
        sending = current()
        if sending is not None:
            sending.sign(self.key)
        return signed

    def _query(
        self,
        urlpath: str,
        data: dict[str, Any],
        headers: dict[str, str] | None = None,
        timeout: Timeout = None,
    ) -> Any:
        sending = current()
        if "/private/" not in urlpath or sending is None:
            return super()._query(urlpath, data, headers, timeout)
        if not isinstance(timeout, tuple):
            timeout = (_CONNECT, self._timeout if timeout is None else timeout)
        sending.once = watch(self.session)
        with sending.limited(WHOLE * (timeout[1] or self._timeout)):
            reply = super()._query(urlpath, data, headers, timeout)
        if was_sent_again(self.response):
            sending.requests = max(2, sending.requests)  # at least
        return reply
