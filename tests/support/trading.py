"""Clients of a simulated exchange over HTTP, and what they left behind.

A test module with a fixture `exchange` has those below by giving them its own names, as in
`account, store = trading.account, trading.store`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.state import CallRecord, fingerprint
from persistent_nonce.stores.base import Store
from persistent_nonce.testing import Credentials, KrakenSimulator

__all__ = ["GUARD", "Aside", "account", "client", "outcomes", "store", "until"]

#: Seconds after which a test gives up on what takes a fraction of one.
GUARD: Final = 60.0


def client(
    exchange: KrakenSimulator, account: Credentials, store: Store, **options: Any
) -> API:
    """Return a client of an account; it may wait an hour of its clock for its turn."""
    made = API(*account, store=store, **{"gate_timeout": 3600.0, **options})
    made.uri = exchange.url
    return made


def outcomes(store: Store, key: str) -> list[tuple[str, str]]:
    """Return method and outcome of the calls of a key, the first one first."""
    calls: list[CallRecord] = store.calls(fingerprint(key))
    return [(c.method, c.outcome) for c in sorted(calls, key=lambda c: c.nonce)]


def until(true: Callable[[], object], what: str) -> None:
    """Wait until `true()`, looking often."""
    deadline = time.monotonic() + GUARD
    while not true():
        assert time.monotonic() < deadline, f"waited {GUARD:g} s for: {what}"
        time.sleep(0.002)


class Aside:
    """A call made on a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised where it is asked for
            self._error = error

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Wait for its end; return what it returned, or raise what it raised."""
        self._thread.join(GUARD)
        assert self.done, f"not done within {GUARD:g} s"
        if self._error is not None:
            raise self._error
        return self._result


@pytest.fixture
def account(exchange: KrakenSimulator) -> Credentials:
    """Return a fresh key of the exchange."""
    return exchange.add_key()


@pytest.fixture
def store(exchange: KrakenSimulator, tmp_path: Path) -> Iterator[SQLiteStore]:
    """Open a store by the exchange's clock."""
    with SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as opened:
        yield opened
