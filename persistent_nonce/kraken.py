"""Facts of Kraken's Spot REST API, as data.

Limits, costs, priorities and the meaning of errors, from the exchange's public
documentation and its clients' issue trackers; nothing here keeps state.
Methods are the names of private calls, `AddOrder` in `/0/private/AddOrder`, spelled as
the exchange spells them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from uuid import UUID

from persistent_nonce.arguments import whole_argument
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.state import Rate

__all__ = [
    "CANCEL",
    "LOCKOUT",
    "PLACE",
    "READ",
    "TIERS",
    "Tier",
    "changes",
    "cost",
    "priority",
    "rate",
    "reference",
]


@dataclass(frozen=True, slots=True)
class Tier:
    """The REST counter of an API key.

    Attributes:
        maximum: the counter's greatest value; a call that would pass it is refused.
        decay: by how much the counter falls in a second.
    """

    maximum: int
    decay: float


#: The verification levels of an account.
TIERS: Final[Mapping[str, Tier]] = MappingProxyType(
    {
        "starter": Tier(maximum=15, decay=0.33),
        "intermediate": Tier(maximum=20, decay=0.5),
        "pro": Tier(maximum=20, decay=1.0),
    }
)

#: Seconds without any private call after which a temporary lockout ends.
LOCKOUT: Final = 900.0

#: Priority of a call that places nothing and cancels nothing.
READ: Final = 0
#: Priority of a call that places or alters an order.
PLACE: Final = 10
#: Priority of a call that cancels orders: it limits a loss, so it goes first.
CANCEL: Final = 20

_PRIORITIES: Final[Mapping[str, int]] = {
    "AddOrder": PLACE,
    "AddOrderBatch": PLACE,
    "AmendOrder": PLACE,
    "EditOrder": PLACE,
    "CancelOrder": CANCEL,
    "CancelOrderBatch": CANCEL,
    "CancelAll": CANCEL,
    "CancelAllOrdersAfter": CANCEL,
}

# The trading engine counts the calls of cost 0, per pair, instead of the REST counter.
_COSTS: Final[Mapping[str, int]] = {
    "Ledgers": 2,
    "QueryLedgers": 2,
    "TradesHistory": 2,
    "AddOrder": 0,
    "AddOrderBatch": 0,
    "AmendOrder": 0,
    "EditOrder": 0,
    "CancelOrder": 0,
    "CancelOrderBatch": 0,
}
_DEAREST: Final = max(_COSTS.values())

# DepositAddresses is left out: with `new` it makes an address.
_READING: Final = frozenset(
    [
        "Balance",
        "BalanceEx",
        "CreditLines",
        "TradeBalance",
        "TradeVolume",
        "OpenOrders",
        "ClosedOrders",
        "QueryOrders",
        "OrderAmends",
        "OpenPositions",
        "TradesHistory",
        "QueryTrades",
        "Ledgers",
        "QueryLedgers",
        "ExportStatus",
        "RetrieveExport",
        "DepositMethods",
        "DepositStatus",
        "WithdrawMethods",
        "WithdrawAddresses",
        "WithdrawInfo",
        "WithdrawStatus",
        "Earn/Strategies",
        "Earn/Allocations",
        "Earn/AllocateStatus",
        "Earn/DeallocateStatus",
        "GetApiKeyInfo",
        "GetWebSocketsToken",
    ]
)

#: The forms of a caller's own ids: 18 free characters or a UUID, and a signed number of 32 bits.
_REFERENCES: Final[Mapping[str, re.Pattern[str]]] = {
    "cl_ord_id": re.compile(r"[!-~]{1,36}"),
    "userref": re.compile(r"-?\d{1,10}", re.ASCII),
}
_FALSE: Final = ("false", "0", "none", "")


def rate(tier: str, headroom: int = 1) -> Rate:
    """Return the call counter of a tier, some units below its maximum.

    With the maximum itself the network's jitter still put 11 of 120 calls over. More headroom leaves room for a
    program outside this library.

    Raises:
        ConfigurationError: there is no such tier, or no room would be left.
    """
    if tier not in TIERS:
        raise ConfigurationError(
            f"unknown tier {tier!r:.40}", f"one of {', '.join(TIERS)}"
        )
    facts = TIERS[tier]
    whole_argument("headroom", headroom, least=0, most=facts.maximum - _DEAREST)
    return Rate(every=1 / facts.decay, burst=facts.maximum - headroom, tier=tier)


def cost(method: str) -> int:
    """Return what a call of `method` adds to the key's REST counter, failed or not."""
    return _COSTS.get(method, 1)


def priority(method: str) -> int:
    """Return CANCEL, PLACE or READ: of two waiting calls the greater goes first."""
    return _PRIORITIES.get(method, READ)


def changes(method: str) -> bool:
    """Tell whether `method` may change something at the exchange.

    True for every method that is not known to read only, so that a new one is never
    taken for harmless.
    """
    return method not in _READING


def reference(method: str, data: Mapping[str, object]) -> str:
    """Return the caller's own id in the data of a call that changes something, as `cl_ord_id=…` or `userref=…`.

    Empty if it gave none, or one that the exchange does not take, or only has an order checked.
    """
    if not changes(method) or str(data.get("validate", False)).lower() not in _FALSE:
        return ""
    for name, form in _REFERENCES.items():
        value = _sent(data.get(name))
        if form.fullmatch(value):
            if name == "userref":
                value = str(int(value))  # as the exchange tells it: 7 for "007"
                if value == "0":  # which orders have that were given none
                    continue
            return f"{name}={value}"
    return ""


def _sent(value: object) -> str:
    """Return what is sent for a value; nothing for one of which encoders make something else than its text."""
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration the value, not the name
    return str(value) if isinstance(value, int | UUID) else ""
