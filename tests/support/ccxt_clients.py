"""Clients of ccxt on a simulated exchange, on a thread and on an event loop, called in the same way.

A test module with the fixtures `exchange`, `account` and `store` has `client` by giving it its own name, as in
`client = ccxt_clients.client`; each of its tests then runs for both kinds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Literal

import ccxt
import ccxt.async_support
import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.ccxt import async_support, kraken
from persistent_nonce.state import fingerprint
from persistent_nonce.testing import Arrival, Credentials, KrakenSimulator, Order
from tests.support import trading

__all__ = [
    "CLASSES",
    "PLAIN",
    "QUIET",
    "Client",
    "Kind",
    "check_arrivals",
    "client",
    "connect",
    "settings",
    "waiting",
]

Kind = Literal["sync", "async"]

#: The drop-in class of each kind.
CLASSES: Final[dict[Kind, Any]] = {"sync": kraken, "async": async_support.kraken}

#: And ccxt's own.
PLAIN: Final[dict[Kind, Any]] = {
    "sync": ccxt.kraken,
    "async": ccxt.async_support.kraken,
}

#: What ccxt gives to newer versions of aiohttp, which say that it is ignored.
QUIET: Final = pytest.mark.filterwarnings(
    "ignore:enable_cleanup_closed:DeprecationWarning"
)


def settings(account: Credentials, **config: Any) -> dict[str, Any]:
    """Return ccxt's configuration for a key; calls may wait an hour of the exchange's clock for their turn."""
    return {
        "apiKey": account.key,
        "secret": account.secret,
        "gate_timeout": 3600.0,
        **config,
    }


def connect(client: Any, url: str) -> Any:
    """Point a client at a url."""
    client.urls["api"] = {**client.urls["api"], "public": url, "private": url}
    client.timeout_on_exit = 0
    return client


class Client:
    """A client of either kind for an account of an exchange; the calls of one on a loop run on a loop that it keeps.

    Attributes:
        raw: ccxt's object.
        exchange, account, store: whose client it is.
        config: it was made with.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        exchange: KrakenSimulator,
        account: Credentials,
        store: SQLiteStore,
        made_by: Any = None,
        **config: Any,
    ) -> None:
        self.kind = kind
        self.exchange = exchange
        self.account = account
        self.store = store
        self._runner = asyncio.Runner()
        self.config = settings(account, store=store, **config)
        self.raw = connect((made_by or CLASSES[kind])(self.config), exchange.url)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Method and outcome of the calls of the account's key, the first one first."""
        return trading.outcomes(self.store, self.account.key)

    @property
    def arrivals(self) -> list[Arrival]:
        """What arrived at the exchange with the account's key."""
        return list(self.exchange.stats(self.account.key).arrivals)

    @property
    def orders(self) -> list[Order]:
        """What was executed of the account's orders."""
        return self.exchange.orders(self.account.key)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of ccxt's object, and return or raise what it does."""
        made = getattr(self.raw, method)
        if self.kind == "sync":
            return made(*args)
        return self.run(lambda: made(*args))

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on the client's loop."""
        return self._runner.run(work())

    def close(self) -> None:
        """Close the client, and its loop."""
        if self.kind == "sync":
            self.raw.session.close()
        else:
            self.call("close")
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def client(
    request: pytest.FixtureRequest,
    exchange: KrakenSimulator,
    account: Credentials,
    store: SQLiteStore,
) -> Iterator[Client]:
    """Connect a client of each kind to the exchange."""
    made = Client(request.param, exchange=exchange, account=account, store=store)
    yield made
    made.close()


def check_arrivals(client: Client, count: int) -> None:
    """Check that so many arrived and were accepted, one at a time, in the order of their nonces (I1, I2, I5)."""
    arrivals = client.arrivals
    assert len(arrivals) == count
    assert {arrival.verdict for arrival in arrivals} == {"accepted"}
    assert not any(arrival.overlapped for arrival in arrivals)
    nonces = [arrival.nonce or 0 for arrival in arrivals]
    assert all(one < other for one, other in itertools.pairwise(nonces))


def waiting(client: Client, count: int) -> bool:
    """Whether so many calls wait."""
    return len(client.store.read(fingerprint(client.account.key)).queue) == count
