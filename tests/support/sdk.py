"""Both kinds of python-kraken-sdk's clients, sync and async, asked in one way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, TypeAlias

import pytest
from kraken import base_api

from persistent_nonce.adapters import kraken_sdk
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.base import Store
from persistent_nonce.testing import Credentials, KrakenSimulator, Stats
from tests.support.serving import serving, url_of
from tests.support.trading import outcomes

__all__ = ["KINDS", "Asker", "Desk", "connected", "desk", "file_server"]

KINDS: Final = ("sync", "async")

#: Awaits what needs that, on the client's loop, and returns all else.
_Result: TypeAlias = Callable[[Any], Any]


class Asker:
    """A client, whichever it is.

    Attributes:
        client: itself.
        result: what awaits its results.
    """

    def __init__(self, client: Any, result: _Result) -> None:
        self.client = client
        self.result = result

    def ask(self, method: str, data: dict[str, Any] | None = None, **rest: Any) -> Any:
        """Make a private call."""
        uri = f"/0/private/{method}"
        return self.result(self.client.request("POST", uri, params=data, **rest))

    def time(self) -> Any:
        """Make a public call."""
        uri = "/0/public/Time"
        return self.result(self.client.request("GET", uri, auth=False))

    def read(self, response: Any) -> tuple[int, str]:
        """Return status and body of a raw response."""
        status = getattr(response, "status_code", None) or response.status
        text = response.text
        return status, self.result(text()) if callable(text) else text

    def point_to(self, url: str) -> None:
        """Have it call another address."""
        self.client.URL = url

    def be(self, account: Credentials) -> None:
        """Give it other credentials."""
        self.client._key, self.client._secret = account


@contextmanager
def connected(kind: str, make: Callable[[], Any]) -> Iterator[Asker]:
    """Make a client, on a loop of its own if its kind needs one, and close it in the end."""
    if kind == "sync":
        client = make()
        try:
            yield Asker(client, lambda result: result)
        finally:
            client._SpotClient__session.close()
        return

    async def begin() -> Any:
        return make()

    with asyncio.Runner() as runner:
        client = runner.run(begin())

        def result(awaitable: Any) -> Any:
            if not isinstance(awaitable, Coroutine):
                return awaitable
            return runner.run(awaitable)

        try:
            yield Asker(client, result)
        finally:
            runner.run(client.close())


@dataclass(frozen=True)
class Desk:
    """Where a kind of client is tried: an account of an exchange, and a store."""

    kind: str
    exchange: KrakenSimulator
    account: Credentials
    store: Store

    def sdk(
        self, url: str | None = None, **options: Any
    ) -> AbstractContextManager[Asker]:
        """Make a drop-in client; it may wait an hour of its clock for its turn."""
        names = {"sync": "SpotClient", "async": "SpotAsyncClient"}
        make = getattr(kraken_sdk, names[self.kind])
        given = {"store": self.store, "gate_timeout": 3600.0, **options}
        where = url or self.exchange.url
        return connected(self.kind, lambda: make(*self.account, where, **given))

    def plain(self, **options: Any) -> AbstractContextManager[Asker]:
        """Make one of python-kraken-sdk's own, of another account."""
        names = {"sync": "SpotClient", "async": "SpotAsyncClient"}
        make = getattr(base_api, names[self.kind])
        given = (*self.exchange.add_key(), self.exchange.url)
        return connected(self.kind, lambda: make(*given, **options))

    @property
    def key(self) -> str:
        """The fingerprint of the account's key."""
        return fingerprint(self.account.key)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Method and outcome of the account's calls, the first one first."""
        return outcomes(self.store, self.account.key)

    @property
    def stats(self) -> Stats:
        """The exchange's figures of the account."""
        return self.exchange.stats(self.account.key)

    @property
    def orders(self) -> int:
        """How many orders the account has."""
        return len(self.exchange.orders(self.account.key))

    def check_order(self) -> None:
        """Check that all calls were accepted, one at a time, in the order of their nonces (I1, I2, I5)."""
        assert {arrival.verdict for arrival in self.stats.arrivals} == {"accepted"}
        nonces = [arrival.nonce or 0 for arrival in self.stats.arrivals]
        assert all(one < other for one, other in itertools.pairwise(nonces))
        assert self.stats.overlaps == 0


@pytest.fixture(params=KINDS)
def desk(
    request: pytest.FixtureRequest,
    exchange: KrakenSimulator,
    account: Credentials,
    store: Store,
) -> Desk:
    """Return where each kind is tried."""
    return Desk(request.param, exchange, account, store)


@contextmanager
def file_server(body: bytes, *, status: int = 200) -> Iterator[str]:
    """Answer every private call with these bytes; the value is where."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        def do_POST(self) -> None:
            """Answer."""
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as server:
        yield url_of(server)
