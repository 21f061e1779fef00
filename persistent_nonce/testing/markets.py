"""The one market of the exchange, XBT against USD, and the public methods that tell of it.

Its price never moves: nothing here is traded, and what a client needs is the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import format_datetime
from typing import Final

from persistent_nonce.clock import SECOND
from persistent_nonce.testing.orders import RefusedError

__all__ = ["ASSETS", "BASE", "NAMES", "PRICE", "PUBLIC", "QUOTE", "asset"]

#: The assets of the pair, by the exchange's own names.
BASE: Final = "XXBT"
QUOTE: Final = "ZUSD"

#: What one unit of the base costs, today as ever.
PRICE: Final = Decimal("37500.0")

ASSETS: Final[Mapping[str, Mapping[str, object]]] = {
    BASE: {
        "aclass": "currency",
        "altname": "XBT",
        "decimals": 10,
        "display_decimals": 5,
        "collateral_value": 1,
        "status": "enabled",
    },
    QUOTE: {
        "aclass": "currency",
        "altname": "USD",
        "decimals": 4,
        "display_decimals": 2,
        "collateral_value": 1,
        "status": "enabled",
    },
}

_PAIR: Final = "XXBTZUSD"
_TERMS: Final[Mapping[str, object]] = {
    "altname": "XBTUSD",
    "wsname": "XBT/USD",
    "aclass_base": "currency",
    "base": BASE,
    "aclass_quote": "currency",
    "quote": QUOTE,
    "lot": "unit",
    "cost_decimals": 5,
    "pair_decimals": 1,
    "lot_decimals": 8,
    "lot_multiplier": 1,
    "leverage_buy": [],
    "leverage_sell": [],
    "fees": [[0, 0.4]],
    "fees_maker": [[0, 0.25]],
    "fee_volume_currency": QUOTE,
    "margin_call": 80,
    "margin_stop": 40,
    "ordermin": "0.0001",
    "costmin": "0.5",
    "tick_size": "0.1",
    "status": "online",
}

#: The names by which a client may call the pair.
NAMES: Final = frozenset({_PAIR, _TERMS["altname"], _TERMS["wsname"]})


def asset(name: str) -> str:
    """Return the exchange's own name of an asset.

    Raises:
        RefusedError: it has none of that name.
    """
    for own, terms in ASSETS.items():
        if name in (own, terms["altname"]):
            return own
    raise RefusedError("EQuery:Unknown asset")


def _assets(fields: Mapping[str, str], _: int) -> object:
    if "asset" not in fields:
        return ASSETS
    return {own: ASSETS[own] for own in map(asset, fields["asset"].split(","))}


def _asset_pairs(fields: Mapping[str, str], _: int) -> object:
    _check_pair(fields)
    return {_PAIR: _TERMS}


def _ticker(fields: Mapping[str, str], _: int) -> object:
    _check_pair(fields)
    price, volume = f"{PRICE:.5f}", "1.00000000"
    return {
        _PAIR: {
            "a": [price, "1", "1.000"],
            "b": [price, "1", "1.000"],
            "c": [price, volume],
            "v": [volume, volume],
            "p": [price, price],
            "t": [1, 1],
            "l": [price, price],
            "h": [price, price],
            "o": price,
        }
    }


def _check_pair(fields: Mapping[str, str]) -> None:
    if not NAMES.issuperset(fields.get("pair", _PAIR).split(",")):
        raise RefusedError("EQuery:Unknown asset pair")


def _time(_: Mapping[str, str], wall: int) -> object:
    moment = datetime.fromtimestamp(wall // SECOND, UTC)
    return {"unixtime": wall // SECOND, "rfc1123": format_datetime(moment)}


def _system_status(_: Mapping[str, str], wall: int) -> object:
    moment = datetime.fromtimestamp(wall // SECOND, UTC)
    return {"status": "online", "timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


#: The public methods, asked with the fields of the query and nanoseconds of the
#: exchange's wall clock; each raises RefusedError to answer with an error.
PUBLIC: Final[Mapping[str, Callable[[Mapping[str, str], int], object]]] = {
    "AssetPairs": _asset_pairs,
    "Assets": _assets,
    "SystemStatus": _system_status,
    "Ticker": _ticker,
    "Time": _time,
}
