"""What an account owns, and how it is told.

Since there is no market, it always owns the same; only what open orders hold changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from persistent_nonce.testing.markets import (
    ASSETS,
    BASE,
    NAMES,
    PRICE,
    QUOTE,
    asset,
)
from persistent_nonce.testing.orders import Book, RefusedError

__all__ = [
    "balance",
    "deposit_methods",
    "earn_strategies",
    "extended_balance",
    "trade_balance",
]

_OWNED: Final = {QUOTE: Decimal(100_000), BASE: Decimal(10)}


def balance() -> dict[str, str]:
    """Answer Balance."""
    return {name: _told(amount, name) for name, amount in _OWNED.items()}


def extended_balance(book: Book) -> dict[str, dict[str, str]]:
    """Answer BalanceEx: with what open orders hold of each asset."""
    held = dict.fromkeys(_OWNED, Decimal(0))
    for order in book.all():
        if order.status != "open" or order.pair not in NAMES:
            continue
        if order.side == "sell":
            held[BASE] += Decimal(order.volume)
        else:
            held[QUOTE] += Decimal(order.volume) * Decimal(order.price)
    return {
        name: {"balance": _told(amount, name), "hold_trade": _told(held[name], name)}
        for name, amount in _OWNED.items()
    }


def trade_balance(fields: Mapping[str, str]) -> dict[str, str]:
    """Answer TradeBalance, in USD only: an account without a position."""
    if asset(fields.get("asset", QUOTE)) != QUOTE:
        raise RefusedError("EGeneral:Invalid arguments:asset")
    worth = _told(_OWNED[QUOTE] + _OWNED[BASE] * PRICE, QUOTE)
    nothing = _told(Decimal(0), QUOTE)
    return {
        **dict.fromkeys(("eb", "tb", "e", "mf"), worth),
        **dict.fromkeys(("m", "uv", "n", "c", "v"), nothing),
    }


def deposit_methods(fields: Mapping[str, str]) -> list[dict[str, object]]:
    """Answer DepositMethods: there is one, for the base."""
    if not fields.get("asset"):
        raise RefusedError("EGeneral:Invalid arguments:asset")
    if asset(fields["asset"]) != BASE:
        return []
    return [
        {
            "method": "Bitcoin",
            "limit": False,
            "fee": "0.0000000000",
            "gen-address": True,
            "minimum": "0.00010000",
        }
    ]


def earn_strategies(fields: Mapping[str, str]) -> dict[str, object]:
    """Answer Earn/Strategies: there is one, for the base."""
    wanted = asset(fields["asset"]) if "asset" in fields else BASE
    strategy = {
        "id": "ESRFUO3-Q62XD-WIOIL7",
        "asset": BASE,
        "lock_type": {"type": "instant", "payout_frequency": 604_800},
        "apr_estimate": {"low": "0.1000", "high": "0.2000"},
        "user_min_allocation": "0.0001",
        "allocation_fee": "0.0000",
        "deallocation_fee": "0.0000",
        "auto_compound": {"type": "enabled"},
        "yield_source": {"type": "off_chain"},
        "can_allocate": True,
        "can_deallocate": True,
        "allocation_restriction_info": [],
    }
    return {"next_cursor": None, "items": [strategy] if wanted == BASE else []}


def _told(amount: Decimal, name: str) -> str:
    return f"{amount:.{ASSETS[name]['decimals']}f}"
