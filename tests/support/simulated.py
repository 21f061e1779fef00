"""A simulated exchange without HTTP: its clock in a test's hands, and a client of it.

A test module has the fixtures below by giving them its own names: `clock, client = simulated.clock, simulated.client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.request import Request, sign

if TYPE_CHECKING:
    from persistent_nonce.testing import Fault
    from persistent_nonce.testing.visits import Visit

#: What AddOrder needs for an order that stays open.
LIMIT: Final = {
    "ordertype": "limit",
    "type": "buy",
    "volume": "1.25",
    "pair": "XBTUSD",
    "price": "37500",
}


class Hands:
    """A clock that stands still until a test moves it."""

    scale = 1.0

    def __init__(self) -> None:
        self.now = 0

    def wall(self) -> int:
        """Return the wall clock, which began at 1,700,000,000 s."""
        return 1_700_000_000 * SECOND + self.now

    def mono(self) -> int:
        """Return the monotonic clock, which began at 0."""
        return self.now

    def boot(self) -> str | None:
        """Return no boot."""
        return None

    def forward(self, seconds: float) -> None:
        """Move both clocks."""
        self.now += round(seconds * SECOND)


class Client:
    """Signs and sends calls of one key, one at a time, with nonces 1, 2, 3, …."""

    def __init__(self, exchange: Exchange, *, tier: str | None = None) -> None:
        self.exchange = exchange
        self.key, self.secret = exchange.add_key(tier=tier)
        self.nonce = 0

    def request(self, method: str, nonce: object = None, **fields: str) -> Request:
        """Return a signed call, with the next nonce if none is given."""
        if nonce is None:
            self.nonce += 1
            nonce = self.nonce
        path = f"/0/private/{method}"
        body = urlencode({"nonce": nonce, **fields}).encode()
        return Request(
            path=path,
            body=body,
            agent="test",
            key=self.key,
            signature=sign(path, str(nonce), body, self.secret),
        )

    def arrive(self, method: str, nonce: object = None, **fields: str) -> Visit:
        """Let a call arrive and stay in flight."""
        return self.exchange.arrive(self.request(method, nonce, **fields))

    def send(self, request: Request) -> dict[str, Any]:
        """Carry a request through the exchange and return the reply."""
        visit = self.exchange.arrive(request)
        reply = self.exchange.execute(visit)
        self.exchange.leave(visit)
        return reply

    def ask(self, method: str, nonce: object = None, **fields: str) -> dict[str, Any]:
        """Make a whole call and return the reply."""
        return self.send(self.request(method, nonce, **fields))

    def error(self, method: str, nonce: object = None, **fields: str) -> str:
        """Make a whole call and return its one error, or nothing."""
        errors: list[str] = self.ask(method, nonce, **fields)["error"]
        assert len(errors) <= 1
        return "".join(errors)

    def inject(
        self,
        fault: Fault,
        *,
        times: int = 1,
        method: str | None = None,
        key: str | None = None,
    ) -> None:
        """Order a fault."""
        self.exchange.inject(fault, times=times, method=method, key=key)


@pytest.fixture
def clock() -> Hands:
    """Return the exchange's clock."""
    return Hands()


@pytest.fixture
def client(clock: Hands) -> Client:
    """Return a client of a new exchange that enforces everything."""
    return Client(Exchange(clock))
