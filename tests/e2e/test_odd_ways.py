"""Odd ways to the exchange: proxies, sessions, hooks and loops of a program's own, in which an order may be sent again.

Each was found by somebody who tried to have an order placed twice, or recorded as what it was not.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ccxt
import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Retry

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters import kraken_sdk, krakenex
from persistent_nonce.adapters.ccxt import async_support
from persistent_nonce.adapters.ccxt import kraken as ccxt_kraken
from tests.support.ccxt_clients import QUIET
from tests.support.scripted import LOST, REFUSED, Scripted, ok, reply, scripted

pytestmark = QUIET

SECRET: Final = base64.b64encode(bytes(64)).decode()

#: What would place a second order.
AGAIN: Final = ok({"txid": ["B"]})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """Return a store."""
    with SQLiteStore(tmp_path / "nonces.db") as opened:
        yield opened


def outcomes(store: SQLiteStore) -> list[str]:
    """Return the outcomes of all calls, the first one first."""
    calls = sorted(store.calls(), key=lambda call: call.nonce)
    return [call.outcome for call in calls]


def exchange_of(kind: Any, server: Scripted, store: SQLiteStore, **config: Any) -> Any:
    """Return a client of ccxt."""
    made = kind(
        {
            "apiKey": "K",
            "secret": SECRET,
            "store": store,
            "min_interval": 0.0,
            "recovery": {"wait": 0.1},
            **config,
        }
    )
    for api in made.urls["api"]:
        made.urls["api"][api] = server.url
    return made


class OwnPool(HTTPConnectionPool):
    """Connections that tell nobody of themselves."""


class Special(HTTPAdapter):
    """An adapter of a program's own, with pools of its own."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make them."""
        super().init_poolmanager(*args, **kwargs)
        pools = {"http": OwnPool, "https": HTTPSConnectionPool}
        self.poolmanager.pool_classes_by_scheme = pools


def eager(kind: type[HTTPAdapter] = HTTPAdapter) -> requests.Session:
    """Return a session that sends again whatever failed."""
    session = requests.Session()
    retries = Retry(3, allowed_methods=None, backoff_factor=0)
    session.mount("http://", kind(max_retries=retries))
    return session


class Own(HTTPAdapter):
    """An adapter of a program's own, which changes nothing."""


@pytest.mark.parametrize("kind", [Own, Special])
@pytest.mark.parametrize("proxied", [True, False])
def test_a_refusal_of_bytes_that_were_sent_again(
    store: SQLiteStore, kind: type[HTTPAdapter], proxied: bool
) -> None:
    """Bytes that an adapter sent twice, through a proxy or not, and that were refused then, may have been executed."""
    with scripted(LOST, REFUSED, AGAIN) as server:
        client = exchange_of(ccxt_kraken, server, store, session=eager(kind))
        if proxied:
            client.urls["api"]["private"] = "http://exchange.example"
            client.httpProxy = server.url
        with pytest.raises(ccxt.InvalidNonce):
            client.privatePostAddOrder({"pair": "X"})
        assert outcomes(store) == ["unknown"]
        assert len(server.bodies) == 2


def test_a_call_inside_a_call_ends_no_counting(store: SQLiteStore) -> None:
    """A hook that calls for another key leaves the redirect behind it counted, and its order in doubt."""
    with (
        scripted(reply(307, {}, "Location: /x"), REFUSED, AGAIN) as server,
        scripted() as elsewhere,
    ):
        other = krakenex.API("OTHER", SECRET, store=store)
        other.uri = elsewhere.url
        session = requests.Session()

        def hook(response: Any, *_: object, **__: object) -> None:
            if response.status_code == 307:
                other.query_private("Balance")

        session.hooks["response"].append(hook)
        client = exchange_of(ccxt_kraken, server, store, session=session)
        with pytest.raises(ccxt.InvalidNonce):
            client.privatePostAddOrder({"pair": "X"})
        assert sorted(outcomes(store)) == ["ok", "unknown"]
        assert len(server.bodies) == 2


def test_retries_of_posts_alone_are_switched_off(store: SQLiteStore) -> None:
    """A session that sends nothing but POSTs again sends none again."""
    session = requests.Session()
    retries = Retry(3, allowed_methods=["POST"], backoff_factor=0)
    session.mount("http://", HTTPAdapter(max_retries=retries))
    with scripted(LOST, AGAIN) as server:
        client = exchange_of(ccxt_kraken, server, store, session=session)
        with pytest.raises(ccxt.NetworkError):
            client.privatePostAddOrder({"pair": "X"})
        assert outcomes(store) == ["unknown"]
        assert len(server.bodies) == 1


def test_nobody_listens_at_the_second_sending(store: SQLiteStore) -> None:
    """An order whose first sending was lost is in doubt, though the second found nobody, and nobody counted them."""
    with scripted("gone") as server:
        client = krakenex.API("K", SECRET, store=store)
        client.uri, client.session = server.url, eager(Special)
        with pytest.raises(requests.exceptions.ConnectionError):
            client.query_private("AddOrder", {"pair": "X"})
        assert len(server.bodies) == 1
    assert outcomes(store) == ["unknown"]


class Asks(ccxt_kraken):
    """A kraken that asks for the time whenever it signs."""

    def sign(self, path: str, api: Any = "public", *args: Any, **kwargs: Any) -> Any:
        """Ask, and sign."""
        if "private" in api:
            self.publicGetTime()
        return super().sign(path, api, *args, **kwargs)


class AsksAside(async_support.kraken):
    """The same in a task beside it."""

    def sign(self, path: str, api: Any = "public", *args: Any, **kwargs: Any) -> Any:
        """Ask, and sign."""
        if "private" in api:
            time: Any = self.publicGetTime()
            self.asking = asyncio.ensure_future(time)
        return super().sign(path, api, *args, **kwargs)


def test_a_public_call_inside_a_private_one(store: SQLiteStore) -> None:
    """What is said of a public call is not taken for the reply to the order that was lost."""
    with scripted(ok({"unixtime": 1}), LOST) as server:
        client = exchange_of(Asks, server, store)
        with pytest.raises(ccxt.NetworkError):
            client.privatePostAddOrder({"pair": "X"})
        assert outcomes(store) == ["unknown"]


def test_a_public_call_beside_a_private_one(store: SQLiteStore) -> None:
    """Nor of one that a task makes which was started in the call."""

    async def main(server: Scripted) -> None:
        client = exchange_of(AsksAside, server, store)
        try:
            with pytest.raises(ccxt.NetworkError):
                await client.privatePostAddOrder({"pair": "X"})
            await asyncio.wait([client.asking])
        finally:
            await client.close()

    with scripted(LOST, LOST, LOST) as server:
        asyncio.run(main(server))
    assert outcomes(store) == ["unknown"]


class Loops(ccxt_kraken):
    """A kraken that sends up to three times."""

    def fetch(self, *args: Any, **kwargs: Any) -> Any:
        """Send until there is a reply."""
        for number in range(3):
            try:
                return super().fetch(*args, **kwargs)
            except ccxt.NetworkError:
                if number == 2:
                    raise
        return None


def test_an_earlier_reply_says_nothing_of_a_later_sending(store: SQLiteStore) -> None:
    """Where a program's own code sends again, only the last sending's reply counts."""
    limited = reply(200, {"error": ["EAPI:Rate limit exceeded"]})
    with scripted(limited, LOST, LOST) as server:
        client = exchange_of(Loops, server, store)
        with pytest.raises(ccxt.NetworkError):
            client.privatePostAddOrder({"pair": "X"})
        assert outcomes(store) == ["unknown"]


def test_a_file_that_is_read_in_parts(store: SQLiteStore) -> None:
    """The raw reply of an asynchronous client has its body, also for who reads it in parts."""
    body = {"error": [], "result": {"report": "x" * 5_000}}

    async def main(server: Scripted) -> bytes:
        client = kraken_sdk.SpotAsyncClient("K", SECRET, server.url, store=store)
        async with client:
            path = "/0/private/RetrieveExport"
            response = await client.request("POST", path, return_raw=True)
            return b"".join([part async for part in response.content.iter_chunked(512)])

    answer = reply(200, body)
    with scripted(answer) as server:
        assert answer.endswith(asyncio.run(main(server)))
    assert outcomes(store) == ["ok"]


def test_a_krakenex_client_can_be_copied() -> None:
    """A client is copied and pickled as krakenex's own is."""
    client = krakenex.API("K", SECRET)
    for made in (copy.deepcopy(client), pickle.loads(pickle.dumps(client))):  # noqa: S301 - our own
        assert (made.key, made.secret, made.response) == ("K", SECRET, None)
