"""ccxt's kraken with every private call through the gate: one import to change, nothing else.

Every exception of a call that was sent is ccxt's own, that of a refused nonce included. A call that was not sent
raises our error, which is a `ccxt.DDoSProtection` too. The class for an event loop is in `async_support`, the one
with WebSockets in `pro`, as in ccxt.
"""

from __future__ import annotations

from typing import Any

try:
    import ccxt as _ccxt
    from ccxt.base.errors import RequestTimeout
    from ccxt.kraken import kraken as _kraken  # `ccxt.kraken` may stand for ours by now
except ImportError as error:
    raise ImportError(
        "persistent_nonce.adapters.ccxt needs ccxt: "
        "pip install 'persistent_nonce[ccxt]'"
    ) from error

from persistent_nonce.adapters.asking import Asking, time_of
from persistent_nonce.adapters.base import WHOLE
from persistent_nonce.adapters.ccxt.gated import PRIVATE, Gated, is_private, once
from persistent_nonce.adapters.limits import watch
from persistent_nonce.adapters.sending import Sending, aside, current
from persistent_nonce.gate import CallGate

__all__ = ["kraken"]


class kraken(Gated, Asking, _kraken):  # noqa: N801 - ccxt's name, by which bots look for it
    """A ccxt.kraken whose private calls share one nonce, one queue and one counter with all others of the key.

    Making one touches no file; the gate is found from `self.apiKey` at each private call. See `Gated` for the
    settings, which are entries of ccxt's configuration; what other clients call `verify` is `verify_key` here.
    """

    verify = _kraken.verify  # type: ignore[assignment]  # ccxt's, of certificates; ours is the next
    verify_key = Asking.verify

    def fetch2(
        self,
        path: str,
        api: Any = "public",
        method: str = "GET",
        params: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Send a request; a private one when it is its turn.

        A refused nonce is tried again, bounded and together with all other programs of the key; when that is over,
        it is ccxt's InvalidNonce. Nothing else is ever sent twice.

        Raises:
            CallError, StoreError, NonceRangeError: it was not sent; each is a ccxt.DDoSProtection too.
            ConfigurationError: it was not sent, since a setting contradicts what is stored or cannot be used.
            Exception: as ccxt raises; the call may have been executed unless there was no connection.
        """
        fetch = super().fetch2
        if not is_private(api):
            with aside():
                return fetch(path, api, method, params or {}, *args, **kwargs)
        self.check_required_credentials()

        def send(_: Sending[Any]) -> Any:
            return fetch(path, api, method, once(params), *args, **kwargs)

        gate = self._find_gate()
        sending = self._gates.passes(gate, path, params or {}, send)
        self._after(sending, gate)
        return sending.result()

    def throttle(self, cost: float | None = None) -> None:
        """Wait as ccxt does before a public call; a private one has had its turn."""
        if current() is None:
            super().throttle(cost)

    def fetch(
        self, url: str, method: str = "GET", headers: Any = None, body: Any = None
    ) -> Any:
        """Send what was signed, and wait for the reply; for that of a private call no longer than its time."""
        sending = current()
        if sending is None:
            return super().fetch(url, method, headers, body)
        sending.once = watch(self.session)
        sending.leaves()
        whole = WHOLE * self.timeout / 1000
        with sending.limited(whole, error=RequestTimeout) as limit:
            reply = super().fetch(url, method, headers, body)
            if sending.reply is None:
                limit.check()
            return reply

    def _find_gate(self) -> CallGate:
        return self._gates.of(self.apiKey)

    def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        fetch = super().fetch2

        def send(_: Sending[Any]) -> Any:
            return fetch(method, PRIVATE, "POST", once(data))

        return self._gates.passes(gate, method, data, send, brief=brief)

    def _ask_time(self) -> float:
        return time_of(self.publicGetTime())


def __getattr__(name: str) -> Any:
    """Return what else a bot finds in ccxt, its errors above all; not its other krakens, which pass no gate."""
    if name in ("async_support", "pro"):  # ours have to be imported
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_ccxt, name)
