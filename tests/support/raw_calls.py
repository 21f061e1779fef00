"""Calls to a simulated exchange in raw HTTP, for what no client of a package does."""

from __future__ import annotations

import http.client
import threading
from typing import Final
from urllib.parse import urlsplit

from persistent_nonce.testing import Credentials, KrakenSimulator, LostReply
from persistent_nonce.testing.request import sign

__all__ = ["HANG", "connect", "post", "threads"]

#: A fault that holds a call until the simulator closes: no test waits for its end.
HANG: Final = LostReply(after=3600)


def threads() -> list[str]:
    """Return the names of the simulator's threads: the listener, and its connections."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("kraken-simulator")]


def connect(exchange: KrakenSimulator) -> http.client.HTTPConnection:
    """Return a raw connection to the exchange."""
    return http.client.HTTPConnection(urlsplit(exchange.url).netloc, timeout=60)


def post(
    connection: http.client.HTTPConnection,
    account: Credentials,
    nonce: int,
    method: str = "Balance",
) -> None:
    """Send a signed call, and do not wait for its reply."""
    path, body = f"/0/private/{method}", f"nonce={nonce}".encode()
    headers = {
        "User-Agent": "test",
        "API-Key": account.key,
        "API-Sign": sign(path, str(nonce), body, account.secret),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    connection.request("POST", path, body, headers)
