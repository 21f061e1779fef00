"""What ccxt's kraken classes have in common here: their settings, and the nonce of the call in what they sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ccxt.abstract.kraken import ImplicitAPI
from ccxt.base.errors import DDoSProtection

from persistent_nonce.adapters.base import WHOLE, Gates
from persistent_nonce.adapters.sending import current
from persistent_nonce.adapters.unsent import unsent
from persistent_nonce.errors import CallError, ConfigurationError
from persistent_nonce.state import Recovery
from persistent_nonce.stores.base import Store

__all__ = ["PRIVATE", "Gated", "is_private", "once"]

#: How ccxt names the private API: a text, in newer versions a list.
PRIVATE: Final[Any] = vars(ImplicitAPI)["privatePostBalance"].api

#: Where the text of a reply stands among what ccxt says of it after its status.
_BODY: Final = 4

_AGAIN: Final = "maxRetriesOnFailure"


def is_private(api: str | list[str]) -> bool:
    """Whether a request is of the private API."""
    return "private" in api


def once(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of a private request's `params` that keeps ccxt from sending its bytes, or its order, again."""
    return {**(params or {}), _AGAIN: 0}


class Gated:
    """The settings of a kraken, and what ccxt asks it for in the middle of a private call; ccxt's class comes after.

    ccxt makes an attribute of each entry of its configuration, so these are entries of that; they are read when the
    object is made.

    Args:
        config: as for ccxt; its `timeout` limits each part of a reply, the whole may take twice as long.

    Attributes:
        store: where the state is kept; None is the default place, opened at the first private call.
        tier: "starter", "intermediate" or "pro"; None follows the key's own, starter at first.
        unit: the unit of the key's nonces; None follows the key's own, ms at first.
        min_interval: seconds between the starts of two calls; None follows the key's own, 0.2 at first.
        gate_timeout: seconds a call may wait for its turn.
        recovery: what is done about a refused nonce, also as a dict of its settings; None as of a `CallGate`.

    Raises:
        ConfigurationError: a setting cannot be used.
    """

    store: Store | str | None = None
    tier: str | None = None
    unit: str | None = None
    min_interval: float | None = None
    gate_timeout: float = 60.0
    recovery: Recovery | dict[str, Any] | None = None

    # Of ccxt, which tells type checkers that they are None, or integers.
    apiKey: Any  # noqa: N815 - ccxt's name
    session: Any
    timeout: Any

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config or {})  # type: ignore[call-arg]  # ccxt's class comes after this one
        self._gates = Gates(
            DDoSProtection,
            store=_store(self.store),
            tier=self.tier,
            unit=self.unit,
            min_interval=self.min_interval,
            gate_timeout=self.gate_timeout,
            recovery=_recovery(self.recovery),
            whole=WHOLE * self.timeout / 1000,
            native="ms",
        )

    def nonce(self) -> Any:
        """Return the nonce of the private call that this thread or task sends; ccxt's own outside one."""
        sending = current()
        if sending is None:
            return super().nonce()  # type: ignore[misc]  # ccxt's class comes after this one
        return sending.call.nonce

    def incrementing_nonce(self) -> Any:
        """Return the same; newer versions of ccxt ask for this one."""
        sending = current()
        if sending is None:
            return super().incrementing_nonce()  # type: ignore[misc]  # ccxt's class comes after this one
        return sending.call.nonce

    def sign(self, path: str, api: Any = "public", *args: Any, **kwargs: Any) -> Any:
        """Sign a request; a private one only within a call.

        Raises:
            CallError: it is signed outside a call, or with a key that was changed while the call waited; an error of
                ccxt's too.
        """
        sending = current()
        if sending is None and is_private(api):
            error = CallError(
                f"{path} is signed outside a call, so there is no nonce for it",
                f"make the call by a method of the exchange, such as privatePost{path}",
            )
            raise unsent(error, DDoSProtection)
        signed = super().sign(path, api, *args, **kwargs)  # type: ignore[misc]  # ccxt's class comes after this one
        if sending is not None and is_private(api):
            sending.sign(signed["headers"]["API-Key"])
        return signed

    def on_rest_response(self, code: int, *args: Any) -> Any:
        """Note a reply as it came, which ccxt shows here."""
        sending = current()
        if sending is not None:
            sending.received(code, args[_BODY])
        return super().on_rest_response(code, *args)  # type: ignore[misc]  # ccxt's class comes after this one


def _store(store: Store | str | None) -> Store | None:
    if isinstance(store, str):
        raise ConfigurationError(
            "the store is an object here, not a path",
            "name the path in the environment, as PERSISTENT_NONCE_DB",
        )
    return store


def _recovery(recovery: Recovery | dict[str, Any] | None) -> Recovery | None:
    if not isinstance(recovery, dict):
        return recovery
    try:
        return Recovery(**recovery)
    except TypeError as error:
        raise ConfigurationError(
            f"unusable recovery {sorted(recovery)!r:.80}",
            f"its settings are {', '.join(Recovery.__dataclass_fields__)}",
        ) from error
