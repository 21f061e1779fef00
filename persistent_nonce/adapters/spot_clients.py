"""The two clients from which all others of python-kraken-sdk inherit, with their private calls through the gate."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import requests
from aiohttp.base_protocol import BaseProtocol
from kraken import base_api
from kraken.exceptions import KrakenRateLimitExceededError

from persistent_nonce.adapters import limits, traces
from persistent_nonce.adapters.asking import Asking, AsyncAsking, time_of
from persistent_nonce.adapters.base import WHOLE, Gates
from persistent_nonce.adapters.sending import Sending, aside, current
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.gate import CallGate
from persistent_nonce.state import Recovery
from persistent_nonce.stores.base import Store

__all__ = ["SpotAsyncClient", "SpotClient", "UnsentError"]

#: The time limit that stands for a client's `TIMEOUT`, in seconds.
_DEFAULT: Final = 10

#: The method that is answered with a file.
_FILE: Final = "RetrieveExport"

_PRIVATE: Final = "/private/"
_TIME: Final = ("GET", "/0/public/Time")


class UnsentError(KrakenRateLimitExceededError):
    """What a call that was not sent is, to a program that knows python-kraken-sdk's errors only."""

    def __init__(self, *args: object) -> None:
        Exception.__init__(self, *args)  # its own puts its docstring into the message


class Gated(base_api.SpotClient):
    """A client whose private calls share one nonce, one queue and one counter with all others of the key.

    Making one touches no file; the gate is found from the client's key at each private call.

    Args:
        args, kwargs: as for python-kraken-sdk.
        store: where the state is kept; None is the default place, opened at the first private call.
        tier: "starter", "intermediate" or "pro"; None follows the key's own, starter at first.
        unit: the unit of the key's nonces; None follows the key's own, 10ns at first, as python-kraken-sdk counts.
        min_interval: seconds between the starts of two calls; None follows the key's own, 0.2 at first.
        gate_timeout: seconds a call may wait for its turn.
        recovery: what is done about a refused nonce; None is `Recovery()`, but for what is stored with the key.

    Raises:
        ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        *args: Any,
        store: Store | None = None,
        tier: str | None = None,
        unit: str | None = None,
        min_interval: float | None = None,
        gate_timeout: float = 60.0,
        recovery: Recovery | None = None,
        **kwargs: Any,
    ) -> None:
        self._gates = Gates(
            UnsentError,
            store=store,
            tier=tier,
            unit=unit,
            min_interval=min_interval,
            gate_timeout=gate_timeout,
            recovery=recovery,
            whole=WHOLE * self.TIMEOUT,
            native="10ns",
        )
        super().__init__(*args, **kwargs)

    def get_nonce(self) -> str:
        """Return the nonce of the call that is being sent.

        Raises:
            ConfigurationError: there is none.
        """
        sending = current()
        if sending is None:
            raise ConfigurationError(
                "a nonce is drawn for a call that has its turn only",
                "make the call by `request`, which waits for its turn",
            )
        return str(sending.call.nonce)

    def _get_kraken_signature(self, *args: Any, **kwargs: Any) -> str:
        signature = super()._get_kraken_signature(*args, **kwargs)
        sending = current()
        if sending is not None:
            sending.sign(self._key)
        return signature

    def _goes_straight(self, *, auth: bool) -> bool:
        """Whether a call is public, or one without credentials, of which python-kraken-sdk says so."""
        return not (auth and self._key and self._secret)


class SpotClient(Gated, Asking):
    """A client whose calls block; its arguments are those of `Gated`."""

    def request(
        self,
        method: str,
        uri: str,
        params: dict[str, Any] | None = None,
        timeout: int = _DEFAULT,
        *,
        auth: bool = True,
        extra_params: str | dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send a private call when it is its turn, and return what python-kraken-sdk makes of the reply.

        A refused nonce is tried again, bounded and together with all other programs of the key; when that is over,
        the error is python-kraken-sdk's own. Nothing else is ever sent twice. A public call is python-kraken-sdk's.

        Raises:
            CallError, StoreError, NonceRangeError: it was not sent; each is a KrakenRateLimitExceededError too.
            ConfigurationError: it was not sent, since a setting contradicts what is stored or cannot be used.
            Exception: as python-kraken-sdk raises.
        """
        if self._goes_straight(auth=auth):
            options |= {"auth": auth, "extra_params": extra_params}
            with aside():
                return super().request(method, uri, params, timeout, **options)
        data = _merged(params, extra_params)
        gate = self._find_gate()
        post = partial(super().request, method, uri, timeout=timeout, **options)
        # What the caller asks for: before 3.5 python-kraken-sdk mixes the two up.
        part = self.TIMEOUT if timeout == _DEFAULT else timeout
        send = partial(self._send, post, data, part)
        sending = self._gates.passes(gate, _name(uri), data, send)
        self._after(sending, gate)
        return sending.result()

    def _find_gate(self) -> CallGate:
        return self._gates.of(self._key)

    def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        post = partial(super().request, "POST", f"/0{_PRIVATE}{method}")
        send = partial(self._send, post, data, self.TIMEOUT)
        return self._gates.passes(gate, method, data, send, brief=brief)

    def _ask_time(self) -> float:
        # Raw, which is what a client without exceptions of its own returns in any case.
        response: Any = super().request(*_TIME, auth=False, return_raw=True)
        return time_of(response.json())

    def _send(
        self,
        post: Callable[..., Any],
        data: dict[str, Any],
        part: object,
        sending: Sending[Any],
    ) -> Any:
        # `requests` takes no limit, and two at once, as well.
        whole = WHOLE * part if isinstance(part, int | float) else math.inf
        with sending.limited(whole):
            return post(params=dict(data))

    # --- python-kraken-sdk's private methods, each called for every request

    def _SpotClient__check_renew_session(self) -> None:  # noqa: N802 - a mangled name
        super()._SpotClient__check_renew_session()  # type: ignore[misc]  # a mangled name
        sending = current()
        if sending is not None:
            sending.once = limits.watch(self._SpotClient__session)  # type: ignore[attr-defined]  # a mangled name

    def _SpotClient__check_response_data(  # noqa: N802 - a mangled name
        self, response: requests.Response, *, return_raw: bool = False
    ) -> Any:
        sending = current()
        if sending is not None:
            _note(sending, response.status_code, response.content)
        check = super()._SpotClient__check_response_data  # type: ignore[misc]  # a mangled name
        return check(response=response, return_raw=return_raw)


class SpotAsyncClient(Gated, AsyncAsking, base_api.SpotAsyncClient):
    """A client on an event loop; its arguments are those of `Gated`."""

    async def request(  # type: ignore[override]  # as python-kraken-sdk's does
        self,
        method: str,
        uri: str,
        params: dict[str, Any] | None = None,
        timeout: int = _DEFAULT,  # noqa: ASYNC109 - python-kraken-sdk's
        *,
        auth: bool = True,
        extra_params: str | dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send a private call when it is its turn, and return what python-kraken-sdk makes of the reply.

        As `SpotClient.request` does. A task that is cancelled gives up its turn; a call that it has sent is in doubt,
        unless the reply was there and the key was being verified after a refused nonce: then it is on record as it was.
        """
        if self._goes_straight(auth=auth):
            options |= {"auth": auth, "extra_params": extra_params}
            with aside():
                return await super().request(method, uri, params, timeout, **options)
        data = _merged(params, extra_params)
        gate = await self._find_gate()
        post = partial(super().request, method, uri, timeout=timeout, **options)
        send = partial(self._send, post, data)
        sending = await self._gates.apasses(gate, _name(uri), data, send)
        await self._after(sending, gate)
        return sending.result()

    async def _find_gate(self) -> CallGate:
        return await self._gates.aof(self._key)

    async def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        post = partial(super().request, "POST", f"/0{_PRIVATE}{method}")
        send = partial(self._send, post, data)
        return await self._gates.apasses(gate, method, data, send, brief=brief)

    async def _ask_time(self) -> float:
        # Raw, which is what a client without exceptions of its own returns in any case.
        response: Any = await super().request(*_TIME, auth=False, return_raw=True)
        return time_of(await response.json())

    async def _send(
        self, post: Callable[..., Any], data: dict[str, Any], sending: Sending[Any]
    ) -> Any:
        # Within that, aiohttp keeps to the client's own limit, for the reply as a whole.
        async with asyncio.timeout(sending.longest):
            return await post(params=dict(data))

    # --- python-kraken-sdk's private methods, each called for every request

    async def _SpotAsyncClient__check_renew_session(self) -> None:  # noqa: N802 - a mangled name
        await super()._SpotAsyncClient__check_renew_session()  # type: ignore[misc]  # a mangled name
        sending = current()
        if sending is not None:
            traces.watch(self._SpotAsyncClient__session)  # type: ignore[attr-defined]  # a mangled name
            sending.counts = True

    async def _SpotAsyncClient__check_response_data(  # noqa: N802 - a mangled name
        self, response: aiohttp.ClientResponse, *, return_raw: bool = False
    ) -> Any:
        sending = current()
        if sending is not None:
            body = await response.read()
            response.content = _refilled(body)
            _note(sending, response.status, body)
        check = super()._SpotAsyncClient__check_response_data  # type: ignore[misc]  # a mangled name
        return await check(response=response, return_raw=return_raw)


def _name(uri: str) -> str:
    """Return the name of the method at `uri`."""
    path = uri.partition("?")[0]
    return (path.partition(_PRIVATE)[2] or path).strip("/")


def _merged(
    params: Mapping[str, Any] | None, extra: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a call says, as python-kraken-sdk puts it together."""
    more = json.loads(extra) if isinstance(extra, str) else extra
    return {**(params or {}), **(more or {})}


def _refilled(body: bytes) -> aiohttp.StreamReader:
    """Return the stream of a reply that was read, for a caller who reads it in parts."""
    loop = asyncio.get_running_loop()
    stream = aiohttp.StreamReader(BaseProtocol(loop), len(body) + 1, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    return stream


def _note(sending: Sending[Any], status: int, body: bytes) -> None:
    sending.received(status, body)
    if (status, sending.call.method, sending.reply) == (HTTPStatus.OK, _FILE, None):
        sending.replied({"error": []})
