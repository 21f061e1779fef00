"""What the exchange answers to each private method, in the shapes of its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from persistent_nonce.clock import SECOND
from persistent_nonce.testing import funds
from persistent_nonce.testing.account import Account
from persistent_nonce.testing.batches import cancel_batch, place_batch
from persistent_nonce.testing.orders import Order, RefusedError

__all__ = ["PRIVATE", "Call"]

_PAGE: Final = 50


@dataclass(frozen=True, slots=True)
class Call:
    """A private call that is carried out.

    Attributes:
        account: whose call it is.
        fields: of the body.
        sent: when it arrived, nanoseconds of the exchange's wall clock.
        now: when it is carried out, likewise.
    """

    account: Account
    fields: Mapping[str, str]
    sent: int
    now: int


def _add_order(call: Call) -> object:
    order = call.account.book.add(call.fields, sent=call.sent, now=call.now)
    told: dict[str, object] = {"descr": {"order": order.describe()}}
    if order in call.account.book.all():  # not with `validate`
        told["txid"] = [order.txid]
    return told


def _add_order_batch(call: Call) -> object:
    book = call.account.book
    orders = place_batch(book, call.fields, sent=call.sent, now=call.now)
    told: list[dict[str, object]] = [
        {"descr": {"order": order.describe()}} for order in orders
    ]
    for entry, order in zip(told, orders, strict=True):
        if order in book.all():  # not with `validate`
            entry["txid"] = order.txid
    return {"orders": told}


def _cancel_order(call: Call) -> object:
    return {"count": call.account.book.cancel(call.fields, now=call.now)}


def _cancel_order_batch(call: Call) -> object:
    return {"count": cancel_batch(call.account.book, call.fields, now=call.now)}


def _cancel_all(call: Call) -> object:
    return {"count": call.account.book.withdraw(now=call.now)}


def _open_orders(call: Call) -> object:
    found = _found(call)
    return {"open": _told([order for order in found if order.status == "open"])}


def _closed_orders(call: Call) -> object:
    start, offset = _number(call, "start"), _number(call, "ofs")
    found = [
        order
        for order in _found(call)
        if order.status != "open" and order.closed >= start * SECOND
    ]
    found.sort(key=lambda order: order.closed, reverse=True)
    return {"closed": _told(found[offset : offset + _PAGE]), "count": len(found)}


def _query_orders(call: Call) -> object:
    if not {"txid", "userref", "cl_ord_id"} & call.fields.keys():
        raise RefusedError("EGeneral:Invalid arguments:txid")
    return _told(call.account.book.find(call.fields))


def _ledgers(_: Call) -> object:
    return {"ledger": {}, "count": 0}


def _trades_history(_: Call) -> object:
    return {"trades": {}, "count": 0}


def _api_key_info(call: Call) -> object:
    account = call.account
    floor, last_used = account.known()
    return {
        "apiKeyName": "simulated",
        "apiKey": account.key,
        "nonce": str(floor),
        "nonceWindow": account.nonce_window,
        "permissions": ["query-funds", "query-open-trades", "modify-trades"],
        "lastUsed": str(last_used),
    }


def _websockets_token(call: Call) -> object:
    return {"token": f"simulated-{call.account.floor}", "expires": 900}


def _number(call: Call, name: str) -> int:
    text = call.fields.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= len("1000000000")):
        raise RefusedError(f"EGeneral:Invalid arguments:{name}")
    return int(text)


def _found(call: Call) -> list[Order]:
    wanted = {k: v for k, v in call.fields.items() if k in ("userref", "cl_ord_id")}
    return call.account.book.find(wanted)


def _told(orders: list[Order]) -> dict[str, object]:
    return {order.txid: order.info() for order in orders}


#: The private methods; each raises RefusedError to answer with an error.
PRIVATE: Final[Mapping[str, Callable[[Call], object]]] = {
    "AddOrder": _add_order,
    "AddOrderBatch": _add_order_batch,
    "Balance": lambda _: funds.balance(),
    "BalanceEx": lambda call: funds.extended_balance(call.account.book),
    "CancelAll": _cancel_all,
    "CancelOrder": _cancel_order,
    "CancelOrderBatch": _cancel_order_batch,
    "ClosedOrders": _closed_orders,
    "DepositMethods": lambda call: funds.deposit_methods(call.fields),
    "Earn/Strategies": lambda call: funds.earn_strategies(call.fields),
    "GetApiKeyInfo": _api_key_info,
    "GetWebSocketsToken": _websockets_token,
    "Ledgers": _ledgers,
    "OpenOrders": _open_orders,
    "QueryOrders": _query_orders,
    "TradeBalance": lambda call: funds.trade_balance(call.fields),
    "TradesHistory": _trades_history,
}
