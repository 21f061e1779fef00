"""The exchange simulator as tests use it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple, Self

from persistent_nonce.arguments import seconds_argument
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.state import DEFAULT_UNIT
from persistent_nonce.testing.clock import ScaledClock
from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.faults import Fault
from persistent_nonce.testing.orders import Order
from persistent_nonce.testing.server import Server
from persistent_nonce.testing.visits import Stats

__all__ = ["Credentials", "KrakenSimulator"]


class Credentials(NamedTuple):
    """A key of the simulator and its secret, drawn at random."""

    key: str
    secret: str


class KrakenSimulator:
    """A local exchange that enforces every rule, stricter than the real one.

    It listens on the loopback interface while it is used as a context manager, or from
    `start` to `close`. Clients need its `url` (`krakenex.API.uri`), a key and a secret,
    and may run in other processes; the figures are read where the simulator runs. It
    keeps a record of every request until it is collected.

        with KrakenSimulator() as exchange:
            client = krakenex.API(*exchange.add_key())
            client.uri = exchange.url
            client.query_private("Balance")

    Start the processes of clients with `spawn` or `subprocess`, not with a fork of the
    process that runs it, whose connections a forked child would keep open.

    Args:
        tier: `starter`, `intermediate` or `pro`, of a key for which none is given.
        latency: real seconds between a request's arrival, when it is judged, and its
            execution, when it is answered.
        time_scale: seconds of the exchange's clock in one real second, a whole number.
            Counters, lockouts, throttles, deadlines and delays follow that clock; give
            the same clock (`clock`) to the store of the clients.
        nonce_window: of every key, in ticks.
        lockout_after: failures within 60 s of its clock that lock a key out.
        counts_itself: whether the nonce and the time that GetApiKeyInfo tells are those
            of its own call, or of the one before; nobody has documented which.
        relax: names of rules that are not enforced (`persistent_nonce.testing.RULES`).
    """

    def __init__(
        self,
        *,
        tier: str = "starter",
        latency: float = 0.02,
        time_scale: int = 1,
        nonce_window: int = 0,
        lockout_after: int = 5,
        counts_itself: bool = True,
        relax: Collection[str] = (),
    ) -> None:
        self.clock: Final = ScaledClock(time_scale)
        self._latency = seconds_argument("latency", latency)
        self._exchange = Exchange(
            self.clock,
            tier=tier,
            nonce_window=nonce_window,
            lockout_after=lockout_after,
            counts_itself=counts_itself,
            relax=relax,
        )
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        if self._server is None:
            raise ConfigurationError("the simulator is not running", "call start()")
        return self._server.url

    def start(self) -> Self:
        """Begin to listen, on a free port."""
        if self._server is None:
            self._server = Server(self._exchange, latency=self._latency)
        return self

    def close(self) -> None:
        """Cut every connection and end every thread; the figures stay readable."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_key(self, *, tier: str | None = None) -> Credentials:
        """Open an account and return fresh credentials for it."""
        return Credentials(*self._exchange.add_key(tier=tier))

    def inject(
        self,
        fault: Fault,
        *,
        times: int = 1,
        method: str | None = None,
        key: str | None = None,
    ) -> None:
        """Let `fault` strike the next `times` calls, of one method or key if given.

        Only a call that keeps every rule is struck, so that no fault is wasted on one
        that is refused anyway; its nonce is used up.
        """
        self._exchange.inject(fault, times=times, method=method, key=key)

    def raise_floor(
        self,
        key: str,
        *,
        to: int | None = None,
        by_seconds: float | None = None,
        unit: str = DEFAULT_UNIT,
    ) -> int:
        """Act as a foreign program whose greater nonce is accepted; return the floor.

        Its nonce is `to` (in the key's ticks), or lies `by_seconds` ahead of the
        exchange's clock in ticks of `unit`. A floor is never lowered.
        """
        return self._exchange.raise_floor(key, to=to, by_seconds=by_seconds, unit=unit)

    def stats(self, key: str | None = None) -> Stats:
        """Return the figures of one key, or of all requests that arrived."""
        return self._exchange.stats(key)

    def orders(self, key: str) -> list[Order]:
        """Return every order executed for a key, the first one first."""
        return self._exchange.orders(key)
