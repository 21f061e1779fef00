"""Orders looked up at an exchange that is asked page by page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from persistent_nonce.adapters.orders import (
    Sought,
    closed_orders,
    open_orders,
    opened,
)
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ExchangeError
from persistent_nonce.steps import run

PAGE: Final = 50


class Book:
    """Closed orders, the newest first, in pages; before each page is shown, something may happen."""

    def __init__(self, count: int) -> None:
        self.orders = [order(number) for number in range(count)]
        self.asked: list[dict[str, Any]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.hidden = 0

    def close(self, count: int) -> None:
        """Have more orders closed."""
        self.orders += [order(len(self.orders) + n) for n in range(count)]

    async def ask(self, method: str, data: dict[str, Any]) -> Any:
        """Answer a call."""
        self.asked.append({"method": method, **data})
        names = {n: v for n, v in data.items() if n in ("cl_ord_id", "userref")}
        found = [o for o in self.orders if names.items() <= o.items()]
        if method == "OpenOrders":
            return {"open": _told(found)}
        self.meanwhile()
        found = [o for o in reversed(self.orders) if names.items() <= o.items()]
        page = found[data["ofs"] : data["ofs"] + PAGE]
        return {"closed": _told(page), "count": len(found) + self.hidden}


def order(number: int) -> dict[str, Any]:
    """Return an order as the exchange shows it, opened at that second."""
    return {"cl_ord_id": f"id-{number}", "userref": None, "opentm": float(number)}


def _told(orders: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"O-{order['cl_ord_id']}": order for order in orders}


def sought(*numbers: int) -> list[Sought]:
    """Return what is looked for."""
    return [Sought("cl_ord_id", f"id-{n}", n * SECOND) for n in numbers]


def test_one_order_is_asked_for_by_its_id() -> None:
    """A single order is looked up by its id, among the open and the closed."""
    book, (one,) = Book(3), sought(1)
    assert opened(run(open_orders(book.ask, [one])), one) == [SECOND]
    assert opened(run(closed_orders(book.ask, [one])), one) == [SECOND]
    assert book.asked == [
        {"method": "OpenOrders", "cl_ord_id": "id-1"},
        {"method": "ClosedOrders", "cl_ord_id": "id-1", "start": 1, "ofs": 0},
    ]


def test_several_open_orders_are_asked_for_at_once() -> None:
    """For more than one the exchange is asked for all."""
    book = Book(3)
    found = run(open_orders(book.ask, sought(1, 2)))
    assert [opened(found, one) for one in sought(0, 2)] == [[0], [2 * SECOND]]
    assert book.asked == [{"method": "OpenOrders"}]


@pytest.mark.parametrize(
    ("count", "numbers", "calls"),
    [
        (100, [3, 99], 2),
        (101, [3, 100], 1 + 2),  # a page to learn that they are three
        (101, [3, 50, 100], 3),
        (0, [1, 2], 1),
    ],
)
def test_closed_orders_take_the_fewer_calls(
    count: int, numbers: list[int], calls: int
) -> None:
    """Pages are asked for as long as they are no more than the orders that are sought, and all are found."""
    book = Book(count)
    found = run(closed_orders(book.ask, sought(*numbers)))
    assert len(book.asked) == calls
    assert all(
        opened(found, one) == ([one.earliest] if count else [])
        for one in sought(*numbers)
    )


def test_orders_closed_while_pages_are_read_hide_none() -> None:
    """However many orders are closed between two pages, each of the former ones is seen."""
    book = Book(150)

    def meanwhile() -> None:
        book.close(60 if len(book.asked) in (2, 3) else 0)

    book.meanwhile = meanwhile
    wanted = sought(*range(150))
    found = run(closed_orders(book.ask, wanted))
    assert [opened(found, one) for one in wanted] == [[one.earliest] for one in wanted]


@pytest.mark.parametrize("numbers", [[0], [0, 1]])
def test_orders_that_are_not_shown_are_no_answer(numbers: list[int]) -> None:
    """An exchange that shows fewer orders than it tells of has not told that there is none."""
    book = Book(2)
    book.hidden = 1
    with pytest.raises(ExchangeError, match=r"ClosedOrders shows [12] of [23] orders"):
        run(closed_orders(book.ask, sought(*numbers)))


def test_orders_from_before_are_not_counted() -> None:
    """An order of the same id that was opened earlier is another one."""
    book = Book(3)
    assert opened(_told(book.orders), Sought("cl_ord_id", "id-2", 2 * SECOND + 1)) == []
    assert opened(_told(book.orders), Sought("userref", "2", 0)) == []
