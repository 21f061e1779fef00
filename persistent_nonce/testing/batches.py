"""Several orders in one call; a batch that is refused has changed nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from persistent_nonce.testing.orders import Book, Order, RefusedError
from persistent_nonce.testing.request import read_json, texts

__all__ = ["cancel_batch", "place_batch"]

#: How many orders a batch places, from and to, and how many it cancels at most.
_PLACED: Final = (2, 15)
_CANCELLED: Final = 50


def place_batch(
    book: Book, fields: Mapping[str, str], *, sent: int, now: int
) -> list[Order]:
    """Execute AddOrderBatch, or with `validate` only check it, and return the orders.

    `sent` and `now` are as in `Book.add`.
    """
    wanted = _list(fields, "orders")
    if not _PLACED[0] <= len(wanted) <= _PLACED[1]:
        raise RefusedError("EGeneral:Invalid arguments:orders")
    shared = {k: v for k, v in fields.items() if k in ("pair", "deadline")}
    orders = [
        book.check({**_fields(one), **shared}, sent=sent, now=now) for one in wanted
    ]
    names = [order.cl_ord_id for order in orders if order.cl_ord_id]
    if len(names) != len(set(names)):
        raise RefusedError("EOrder:Duplicate cl_ord_id")
    if not Book.only_checks(fields):
        for order in orders:
            book.keep(order)
    return orders


def cancel_batch(book: Book, fields: Mapping[str, str], *, now: int) -> int:
    """Execute CancelOrderBatch and return how many orders it hit."""
    txids = _list(fields, "orders")
    cl_ord_ids = _list(fields, "cl_ord_ids")
    names = [*txids, *cl_ord_ids]
    if not 0 < len(names) <= _CANCELLED or not all(isinstance(n, str) for n in names):
        raise RefusedError("EGeneral:Invalid arguments:orders")
    hit = sum(book.withdraw(now=now, txid=name) for name in txids)
    hit += sum(book.withdraw(now=now, cl_ord_id=name) for name in cl_ord_ids)
    if not hit:
        raise RefusedError("EOrder:Unknown order")
    return hit


def _list(fields: Mapping[str, str], name: str) -> list[Any]:
    try:
        found = read_json(fields.get(name, "[]"))
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise RefusedError(f"EGeneral:Invalid arguments:{name}")
    return found


def _fields(order: object) -> dict[str, str]:
    try:
        if isinstance(order, dict):
            return texts(order)
    except ValueError:
        pass
    raise RefusedError("EGeneral:Invalid arguments:orders")
