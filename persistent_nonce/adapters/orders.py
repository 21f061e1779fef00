"""The orders of an account, looked up by the caller's own ids with as few calls as will do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ExchangeError
from persistent_nonce.steps import Steps

__all__ = ["Ask", "Orders", "Sought", "closed_orders", "open_orders", "opened"]

_AGAIN: Final = "try again later"

_UUID: Final = re.compile("[0-9a-f]{32}")

#: Sends a private call of a method with its data, and returns the result.
Ask: TypeAlias = Callable[[str, dict[str, Any]], Steps[Any]]

#: What the exchange tells of orders, by its own name for each.
Orders: TypeAlias = Mapping[str, Any]


class Sought(NamedTuple):
    """An order that is looked for.

    Attributes:
        name: of the caller's own id, "cl_ord_id" or "userref".
        value: of that.
        earliest: when it was opened at the earliest, ns of the exchange's clock.
    """

    name: str
    value: str
    earliest: int


def opened(orders: Orders, sought: Sought) -> list[int]:
    """Return when the orders that may be the one sought were opened, ns of the exchange's clock."""
    times = [
        _opening(order)
        for order in orders.values()
        if _bears(order, sought.name, sought.value)
    ]
    return [at for at in times if at >= sought.earliest]


async def open_orders(ask: Ask, sought: Sequence[Sought]) -> Orders:
    """Return the open orders, in one call; of a single one that is sought only those with its id."""
    orders, _ = _page(await ask("OpenOrders", _only(sought)), "open")
    return orders


async def closed_orders(ask: Ask, sought: Sequence[Sought]) -> Orders:
    """Return the closed orders among which those sought must be.

    All since the earliest if that takes no more pages than there are orders sought, otherwise those of each id.

    Raises:
        ExchangeError: it tells of more than it shows.
    """
    if len(sought) > 1:
        earliest = min(one.earliest for one in sought)
        orders = await _pages(ask, {}, earliest, most=len(sought))
        if orders is not None:
            return orders
    found: dict[str, Any] = {}
    for one in sought:
        found |= await _pages(ask, _only([one]), one.earliest) or {}
    return found


def _only(sought: Sequence[Sought]) -> dict[str, Any]:
    return {one.name: one.value for one in sought} if len(sought) == 1 else {}


async def _pages(
    ask: Ask, data: dict[str, Any], earliest: int, *, most: int | None = None
) -> dict[str, Any] | None:
    """Return the closed orders since `earliest`, or None if they fill more than `most` pages."""
    start = max(0, earliest // SECOND)
    found: dict[str, Any] = {}
    shown = 0
    while True:
        page = await ask("ClosedOrders", {**data, "start": start, "ofs": shown})
        orders, count = _page(page, "closed")
        if most is not None and not shown and count > most * len(orders):
            return None
        # The newest come first: one that is closed meanwhile shows others twice, and hides none.
        found |= orders
        shown += len(orders)
        if shown >= count:
            return found
        if not orders:
            raise ExchangeError(f"ClosedOrders shows {shown} of {count} orders", _AGAIN)


def _page(result: Any, name: str) -> tuple[dict[str, Any], int]:
    """Return the orders of a page, by their id at the exchange, and how many there are on all pages."""
    try:
        orders = dict(result[name])
        return orders, int(result["count"]) if name == "closed" else len(orders)
    except (KeyError, TypeError, ValueError) as error:
        raise ExchangeError(f"orders that are {name} were not told", _AGAIN) from error


def _bears(order: Any, name: str, value: str) -> bool:
    """Whether it is the order of this id."""
    own = order.get(name) if isinstance(order, Mapping) else None
    return own is not None and _plain(str(own)) == _plain(value)


def _plain(id: str) -> str:
    """Return an id as it is, a UUID in one form: the exchange may write it in another than the caller."""
    plain = id.casefold().replace("-", "")
    return plain if _UUID.fullmatch(plain) else id


def _opening(order: Any) -> int:
    try:
        return round(float(order["opentm"]) * SECOND)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExchangeError("an order was told without its time", _AGAIN) from error
