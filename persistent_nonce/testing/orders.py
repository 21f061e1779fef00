"""The orders of one account: placed, cancelled and told in the exchange's shapes.

There is no market. A market order is filled at once, every other one stays open until
it is cancelled.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

from persistent_nonce.clock import SECOND

__all__ = ["Book", "Order", "RefusedError"]

_REQUIRED: Final = ("ordertype", "type", "volume", "pair")
_UNPRICED: Final = frozenset({"market", "settle-position"})
_TYPES: Final = _UNPRICED | {
    "limit",
    "iceberg",
    "stop-loss",
    "take-profit",
    "stop-loss-limit",
    "take-profit-limit",
    "trailing-stop",
    "trailing-stop-limit",
}

# A UUID, with dashes or without, or up to 18 characters of free text.
_CL_ORD_ID: Final = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[!-~]{1,18}", re.IGNORECASE
)

#: A deadline may lie this many seconds ahead of the request's arrival.
_DEADLINE: Final = (2, 60)


class RefusedError(Exception):
    """The exchange says no; its text is the error of the reply."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order as it stands.

    Attributes:
        txid: the exchange's name for it.
        status: `open`, `closed` (filled) or `canceled`.
        opened: when it was executed, nanoseconds of the exchange's wall clock.
        closed: when it was filled or cancelled, likewise; 0 while it is open.
        ordertype: `market`, `limit`, ….
        side: `buy` or `sell`.
        pair: as the client wrote it.
        volume: likewise.
        price: likewise; `0` for a market order.
        userref: the client's mark, not unique.
        cl_ord_id: the client's name for it, unique among open orders.
    """

    txid: str
    status: str
    opened: int
    closed: int
    ordertype: str
    side: str
    pair: str
    volume: str
    price: str
    userref: int | None
    cl_ord_id: str | None

    def describe(self) -> str:
        """Return the order in words, as `descr` has it."""
        terms = self.ordertype
        if self.ordertype not in _UNPRICED:
            terms += f" {self.price}"
        return f"{self.side} {self.volume} {self.pair} @ {terms}"

    def info(self) -> dict[str, object]:
        """Return the order in the shape of OpenOrders, ClosedOrders and QueryOrders."""
        told: dict[str, object] = {
            "refid": None,
            "userref": self.userref,
            "status": self.status,
            "opentm": self.opened / SECOND,
            "starttm": 0,
            "expiretm": 0,
            "descr": {
                "pair": self.pair,
                "type": self.side,
                "ordertype": self.ordertype,
                "price": self.price,
                "price2": "0",
                "leverage": "none",
                "order": self.describe(),
                "close": "",
            },
            "vol": self.volume,
            "vol_exec": self.volume if self.status == "closed" else "0.00000000",
            "cost": "0.00000",
            "fee": "0.00000",
            "price": "0.00000",
            "misc": "",
            "oflags": "fciq",
        }
        if self.cl_ord_id is not None:
            told["cl_ord_id"] = self.cl_ord_id
        if self.closed:
            told["closetm"] = self.closed / SECOND
            told["reason"] = "User requested" if self.status == "canceled" else None
        return told


class Book:
    """The orders of one account, by txid, in the order of their execution."""

    def __init__(self, serial: Iterator[int]) -> None:
        self._serial = serial
        self._orders: dict[str, Order] = {}

    def all(self) -> list[Order]:
        """Return every order that was executed, the first one first."""
        return list(self._orders.values())

    def add(self, fields: Mapping[str, str], *, sent: int, now: int) -> Order:
        """Execute AddOrder, or with `validate` only check it, and return the order.

        `sent` is when the request arrived and `now` when it is executed, both in
        nanoseconds of the wall clock; the deadline is held against both.
        """
        order = self.check(fields, sent=sent, now=now)
        if not self.only_checks(fields):
            self.keep(order)
        return order

    @staticmethod
    def only_checks(fields: Mapping[str, str]) -> bool:
        """Tell whether the fields of a call ask to have its orders only checked."""
        return fields.get("validate", "false").lower() not in ("false", "0", "")

    def keep(self, order: Order) -> None:
        """Take an order that was checked."""
        self._orders[order.txid] = order

    def cancel(self, fields: Mapping[str, str], *, now: int) -> int:
        """Execute CancelOrder by txid, userref or cl_ord_id; return how many it hit."""
        txid, cl_ord_id = fields.get("txid"), fields.get("cl_ord_id")
        if bool(txid) == bool(cl_ord_id):
            raise RefusedError("EGeneral:Invalid arguments:txid")
        hit = self.withdraw(now=now, txid=txid or None, cl_ord_id=cl_ord_id or None)
        if not hit:
            raise RefusedError("EOrder:Unknown order")
        return hit

    def withdraw(
        self, *, now: int, txid: str | None = None, cl_ord_id: str | None = None
    ) -> int:
        """Cancel the open orders of that name, without one all; return how many."""
        hit = [order for order in self._orders.values() if order.status == "open"]
        if cl_ord_id is not None:
            hit = [order for order in hit if order.cl_ord_id == cl_ord_id]
        if txid is not None:  # which may be a userref
            hit = [o for o in hit if txid in (o.txid, _mark(o))]
        for order in hit:
            self._orders[order.txid] = replace(order, status="canceled", closed=now)
        return len(hit)

    def find(self, fields: Mapping[str, str]) -> list[Order]:
        """Return the orders that `txid` (a comma list), userref and cl_ord_id leave."""
        found = self.all()
        if txids := [
            txid.strip() for txid in fields.get("txid", "").split(",") if txid
        ]:
            if any(txid not in self._orders for txid in txids):
                raise RefusedError("EOrder:Unknown order")
            found = [self._orders[txid] for txid in txids]
        if "userref" in fields:
            userref = _integer("userref", fields["userref"])
            found = [order for order in found if order.userref == userref]
        if "cl_ord_id" in fields:
            found = [o for o in found if o.cl_ord_id == fields["cl_ord_id"]]
        return found

    def check(self, fields: Mapping[str, str], *, sent: int, now: int) -> Order:
        """Return the order that the fields describe, or refuse it; `add` keeps it."""
        for name in _REQUIRED:
            if not fields.get(name):
                raise RefusedError(f"EGeneral:Invalid arguments:{name}")
        if fields["ordertype"] not in _TYPES:
            raise RefusedError("EGeneral:Invalid arguments:ordertype")
        if fields["type"] not in ("buy", "sell"):
            raise RefusedError("EGeneral:Invalid arguments:type")
        _positive("volume", fields["volume"])
        price = "0"
        if fields["ordertype"] not in _UNPRICED:
            price = fields.get("price", "")
            _positive("price", price)
        userref = fields.get("userref")
        cl_ord_id = fields.get("cl_ord_id")
        if cl_ord_id is not None:
            if userref is not None or not _CL_ORD_ID.fullmatch(cl_ord_id):
                raise RefusedError("EGeneral:Invalid arguments:cl_ord_id")
            if any(o.status == "open" for o in self.find({"cl_ord_id": cl_ord_id})):
                # The documentation does not give the exchange's own words.
                raise RefusedError("EOrder:Duplicate cl_ord_id")
        if "deadline" in fields:
            _check_deadline(fields["deadline"], sent=sent, now=now)
        market = fields["ordertype"] in _UNPRICED
        return Order(
            txid=_txid(next(self._serial)),
            status="closed" if market else "open",
            opened=now,
            closed=now if market else 0,
            ordertype=fields["ordertype"],
            side=fields["type"],
            pair=fields["pair"],
            volume=fields["volume"],
            price=price,
            userref=None if userref is None else _integer("userref", userref),
            cl_ord_id=cl_ord_id,
        )


def _mark(order: Order) -> str | None:
    return None if order.userref is None else str(order.userref)


def _txid(serial: int) -> str:
    digits = f"{serial:016}"
    return f"O{digits[:5]}-{digits[5:10]}-{digits[10:]}"


def _positive(name: str, text: str) -> None:
    try:
        good = 0 < Decimal(text) < Decimal("Infinity")
    except InvalidOperation:
        good = False
    if not good:
        raise RefusedError(f"EGeneral:Invalid arguments:{name}")


def _integer(name: str, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,10}", text):
        raise RefusedError(f"EGeneral:Invalid arguments:{name}")
    return int(text)


def _check_deadline(text: str, *, sent: int, now: int) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RefusedError("EGeneral:Invalid arguments:deadline") from None
    if moment.tzinfo is None:
        raise RefusedError("EGeneral:Invalid arguments:deadline")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    deadline = since // timedelta(microseconds=1) * 1000
    if not _DEADLINE[0] * SECOND <= deadline - sent <= _DEADLINE[1] * SECOND:
        raise RefusedError("EGeneral:Invalid arguments:deadline")
    if now > deadline:
        raise RefusedError("EService:Deadline elapsed")
