"""Facts of Kraken's Spot REST API, as data.

Limits, costs, priorities and the meaning of errors, from the exchange's public
documentation and its clients' issue trackers; nothing here keeps state.
Methods are the names of private calls, `AddOrder` in `/0/private/AddOrder`, spelled as
the exchange spells them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from persistent_nonce.errors import ConfigurationError
from persistent_nonce.state import Rate

__all__ = [
    "CANCEL",
    "LOCKOUT",
    "PLACE",
    "READ",
    "TIERS",
    "Tier",
    "Verdict",
    "changes",
    "cost",
    "is_error",
    "is_invalid_nonce",
    "outcome",
    "priority",
    "rate",
]

#: What a reply says of its call: done; refused for its nonce; refused otherwise,
#: not executed; or in doubt, perhaps executed.
Verdict = Literal["ok", "invalid_nonce", "error", "unknown"]


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

# Beginnings of errors, folded; the first that fits decides. What fits none is in
# doubt: an error that nobody has described does not say that nothing happened.
_OUTCOMES: Final[tuple[tuple[str, Verdict], ...]] = (
    ("w", "ok"),
    ("eapi:invalidnonce", "invalid_nonce"),
    ("eapi:", "error"),
    ("eauth:", "error"),
    ("eorder:", "error"),
    ("equery:", "error"),
    ("egeneral:invalidarguments", "error"),
    ("egeneral:permissiondenied", "error"),
    ("egeneral:temporarylockout", "error"),
    ("egeneral:toomanyrequests", "error"),
    ("egeneral:unknownmethod", "error"),
    ("eservice:deadlineelapsed", "error"),
    ("eservice:marketin", "error"),
    ("eservice:throttled", "error"),
)

# From the surest to the most doubtful: of several entries the worst one counts.
_SEVERITY: Final[tuple[Verdict, ...]] = ("ok", "error", "invalid_nonce", "unknown")


def rate(tier: str) -> Rate:
    """Return the call counter of a tier, one unit below its maximum.

    With the maximum itself the network's jitter still put 11 of 120 calls over.

    Raises:
        ConfigurationError: there is no such tier.
    """
    if tier not in TIERS:
        raise ConfigurationError(
            f"unknown tier {tier!r:.40}", f"one of {', '.join(TIERS)}"
        )
    facts = TIERS[tier]
    return Rate(every=1 / facts.decay, burst=facts.maximum - 1, tier=tier)


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


def is_invalid_nonce(errors: Iterable[str]) -> bool:
    """Tell whether a reply's `error` list refuses the nonce, in any case of letters."""
    return any(_judge(entry) == "invalid_nonce" for entry in errors)


def is_error(errors: Iterable[str]) -> bool:
    """Tell whether a reply's `error` list holds more than warnings (`W…`)."""
    return any(_judge(entry) != "ok" for entry in errors)


def outcome(errors: Iterable[str]) -> Verdict:
    """Return what a reply's `error` list says of the call that it answers.

    It holds for a call that was sent once: an invalid nonce in reply to bytes that
    were sent before means that the earlier sending was probably executed.
    """
    return max((_judge(entry) for entry in errors), key=_SEVERITY.index, default="ok")


def _judge(entry: str) -> Verdict:
    # The exchange writes both "EService:Throttled" and "EService: Throttled".
    folded = "".join(entry.casefold().split())
    for beginning, verdict in _OUTCOMES:
        if folded.startswith(beginning):
            return verdict
    return "unknown"
