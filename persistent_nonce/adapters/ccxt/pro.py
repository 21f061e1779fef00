"""The same for ccxt's kraken with WebSockets, which asks for their token by a private call."""

from __future__ import annotations

from typing import Any

import ccxt.pro as _ccxt
from ccxt.pro.kraken import kraken as _kraken

from persistent_nonce.adapters.ccxt import async_support

__all__ = ["kraken"]


class kraken(async_support.kraken, _kraken):  # noqa: N801 - ccxt's name, by which bots look for it
    """A ccxt.pro.kraken with the settings and the queue of `persistent_nonce.adapters.ccxt.kraken`."""


def __getattr__(name: str) -> Any:
    """Return what else a bot finds in ccxt.pro."""
    return getattr(_ccxt, name)
