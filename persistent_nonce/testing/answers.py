"""What the exchange answers to each method, in the shapes of its documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from persistent_nonce.clock import SECOND
from persistent_nonce.testing.account import Account
from persistent_nonce.testing.orders import Order, RefusedError

__all__ = ["PRIVATE", "PUBLIC", "Call"]

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


def _balance(_: Call) -> object:
    return {"ZUSD": "100000.0000", "XXBT": "10.0000000000"}


def _add_order(call: Call) -> object:
    order = call.account.book.add(call.fields, sent=call.sent, now=call.now)
    told: dict[str, object] = {"descr": {"order": order.describe()}}
    if order in call.account.book.all():  # not with `validate`
        told["txid"] = [order.txid]
    return told


def _cancel_order(call: Call) -> object:
    return {"count": call.account.book.cancel(call.fields, now=call.now)}


def _open_orders(call: Call) -> object:
    found = _found(call)
    return {"open": _told([order for order in found if order.status == "open"])}


def _closed_orders(call: Call) -> object:
    start = call.fields.get("start", "0")
    if not (start.isascii() and start.isdigit() and len(start) <= len("1000000000")):
        raise RefusedError("EGeneral:Invalid arguments:start")
    found = [
        order
        for order in _found(call)
        if order.status != "open" and order.closed >= int(start) * SECOND
    ]
    found.sort(key=lambda order: order.closed, reverse=True)
    offset = call.fields.get("ofs", "0")
    if not (offset.isascii() and offset.isdigit() and len(offset) < len("1000000000")):
        raise RefusedError("EGeneral:Invalid arguments:ofs")
    page = found[int(offset) : int(offset) + _PAGE]
    return {"closed": _told(page), "count": len(found)}


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


def _found(call: Call) -> list[Order]:
    wanted = {k: v for k, v in call.fields.items() if k in ("userref", "cl_ord_id")}
    return call.account.book.find(wanted)


def _told(orders: list[Order]) -> dict[str, object]:
    return {order.txid: order.info() for order in orders}


def _time(wall: int) -> object:
    moment = datetime.fromtimestamp(wall // SECOND, UTC)
    return {"unixtime": wall // SECOND, "rfc1123": format_datetime(moment)}


def _system_status(wall: int) -> object:
    moment = datetime.fromtimestamp(wall // SECOND, UTC)
    return {"status": "online", "timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


#: The private methods; each raises RefusedError to answer with an error.
PRIVATE: Final[Mapping[str, Callable[[Call], object]]] = {
    "AddOrder": _add_order,
    "Balance": _balance,
    "CancelOrder": _cancel_order,
    "ClosedOrders": _closed_orders,
    "GetApiKeyInfo": _api_key_info,
    "GetWebSocketsToken": _websockets_token,
    "Ledgers": _ledgers,
    "OpenOrders": _open_orders,
    "QueryOrders": _query_orders,
    "TradesHistory": _trades_history,
}

#: The public methods, asked with nanoseconds of the exchange's wall clock.
PUBLIC: Final[Mapping[str, Callable[[int], object]]] = {
    "SystemStatus": _system_status,
    "Time": _time,
}
