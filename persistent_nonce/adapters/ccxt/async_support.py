"""The same for ccxt's kraken on an event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import ccxt.async_support as _ccxt
from ccxt.async_support.kraken import kraken as _kraken
from ccxt.base.errors import RequestTimeout

from persistent_nonce.adapters.asking import AsyncAsking, time_of
from persistent_nonce.adapters.ccxt.gated import PRIVATE, Gated, is_private, once
from persistent_nonce.adapters.sending import Sending, aside, current
from persistent_nonce.adapters.traces import watch
from persistent_nonce.gate import CallGate

__all__ = ["kraken"]


class kraken(Gated, AsyncAsking, _kraken):  # noqa: N801 - ccxt's name, by which bots look for it
    """A ccxt.async_support.kraken with the settings and the queue of `persistent_nonce.adapters.ccxt.kraken`."""

    verify = _kraken.verify  # type: ignore[assignment]  # ccxt's, of certificates; ours is the next
    verify_key = AsyncAsking.verify

    async def fetch2(
        self,
        path: str,
        api: Any = "public",
        method: str = "GET",
        params: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Send a request; a private one when it is its turn. See the class without a loop."""
        fetch = super().fetch2
        if not is_private(api):
            with aside():
                return await fetch(path, api, method, params or {}, *args, **kwargs)
        self.check_required_credentials()

        async def send(_: Sending[Any]) -> Any:
            return await fetch(path, api, method, once(params), *args, **kwargs)

        gate = await self._find_gate()
        sending = await self._gates.apasses(gate, path, params or {}, send)
        await self._after(sending, gate)
        return sending.result()

    async def throttle(self, cost: float | None = None) -> None:
        """Wait as ccxt does before a public call; a private one has had its turn."""
        if current() is None:
            await super().throttle(cost)

    async def fetch(
        self, url: str, method: str = "GET", headers: Any = None, body: Any = None
    ) -> Any:
        """Send what was signed, and wait for the reply; for that of a private call no longer than its time."""
        sending = current()
        if sending is None:
            return await super().fetch(url, method, headers, body)
        sending.leaves()
        sending.counts = True  # `open` sees to that before anything is sent
        try:
            async with asyncio.timeout(sending.longest):  # ccxt's may be longer
                return await super().fetch(url, method, headers, body)
        except TimeoutError as error:
            raise RequestTimeout(
                f"no whole reply within {sending.longest:g} s; "
                "the call may have been executed"
            ) from error

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Open the session if there is none yet, and have its requests counted."""
        super().open(*args, **kwargs)
        watch(self.session)

    def get_socks_proxy_session(self, *args: Any) -> Any:
        """Return the session for a proxy, whose requests are counted too."""
        session = super().get_socks_proxy_session(*args)
        watch(session)
        return session

    async def _find_gate(self) -> CallGate:
        return await self._gates.aof(self.apiKey)

    async def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        fetch = super().fetch2

        async def send(_: Sending[Any]) -> Any:
            return await fetch(method, PRIVATE, "POST", once(data))

        return await self._gates.apasses(gate, method, data, send, brief=brief)

    async def _ask_time(self) -> float:
        return time_of(await self.publicGetTime())  # type: ignore[misc]  # declared as if it did not wait


def __getattr__(name: str) -> Any:
    """Return what else a bot finds in ccxt.async_support."""
    return getattr(_ccxt, name)
