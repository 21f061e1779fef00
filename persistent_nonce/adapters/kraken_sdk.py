"""python-kraken-sdk with every private call through the gate: one import to change, nothing else.

Each client has the name of the one that it stands for. Results and exceptions are python-kraken-sdk's own. A call that
was not sent raises our error, which is a `kraken.exceptions.KrakenRateLimitExceededError` too: of the exchange's
refusals, which are python-kraken-sdk's errors, it is the one after which nothing was done and the same call may be made
later. What its users take for the network's, of `requests` or `aiohttp`, differs between its clients.
"""

from __future__ import annotations

try:
    from kraken import spot
    from kraken.spot import websocket
except ImportError as error:
    raise ImportError(
        "persistent_nonce.adapters.kraken_sdk needs python-kraken-sdk: "
        "pip install 'persistent_nonce[kraken-sdk]'"
    ) from error

from persistent_nonce.adapters.spot_clients import SpotAsyncClient, SpotClient

__all__ = [
    "Earn",
    "Funding",
    "Market",
    "SpotAsyncClient",
    "SpotClient",
    "SpotOrderBookClient",
    "SpotWSClient",
    "SpotWSClientBase",
    "Trade",
    "User",
]


class User(SpotClient, spot.User):
    """A `kraken.spot.User` through the gate."""


class Trade(SpotClient, spot.Trade):
    """A `kraken.spot.Trade` through the gate."""


class Funding(SpotClient, spot.Funding):
    """A `kraken.spot.Funding` through the gate."""


class Earn(SpotClient, spot.Earn):
    """A `kraken.spot.Earn` through the gate."""


class Market(SpotClient, spot.Market):
    """A `kraken.spot.Market` through the gate."""


class SpotWSClientBase(SpotAsyncClient, websocket.SpotWSClientBase):
    """A `kraken.spot.websocket.SpotWSClientBase` through the gate."""


class SpotWSClient(SpotWSClientBase, spot.SpotWSClient):
    """A `kraken.spot.SpotWSClient` through the gate."""


class SpotOrderBookClient(SpotWSClient, spot.SpotOrderBookClient):
    """A `kraken.spot.SpotOrderBookClient` through the gate."""
