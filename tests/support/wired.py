"""Fixtures: a krakenex client on a wire, by a clock that moves while the library waits and with a store that may fail.

A test module has them by giving them its own names, as in `wire, client = wired.wire, wired.client`; `client` wants
`store` beside it, and that `clock`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from persistent_nonce import passage, steps
from persistent_nonce.adapters import base
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import NonceError, StorePermissionError
from persistent_nonce.state import Change, Changed, KeyState, fingerprint
from persistent_nonce.stores.memory import MemoryStore
from tests.support.clocks import StillClock
from tests.support.wire import KEY, SECRET, Wire

__all__ = [
    "Forbidden",
    "Spied",
    "client",
    "clock",
    "close_key",
    "connect",
    "homeless",
    "outcomes",
    "store",
    "wire",
]


class Spied(MemoryStore):
    """A store that fails as ordered, and lets something happen after an update."""

    failure: NonceError | None = None
    after_update: Callable[[KeyState], object] | None = None

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Update, unless it is to fail."""
        if self.failure is not None:
            raise self.failure
        state = super().update(key, change, durable=durable)
        if self.after_update is not None:
            self.after_update(state)
        return state


class Forbidden:
    """A store that nobody may use."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked for {name}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    """Return a clock that moves while the library waits, which takes no time."""
    clock = StillClock()

    def pause(seconds: float) -> Any:
        return steps.do(lambda: clock.advance(seconds))

    monkeypatch.setattr(passage, "pause", pause)
    return clock


@pytest.fixture
def store(clock: StillClock) -> Spied:
    """Return a store by that clock."""
    return Spied(clock=clock)


@pytest.fixture
def wire() -> Wire:
    """Return what stands for the network."""
    return Wire()


@pytest.fixture
def client(store: Spied, wire: Wire) -> API:
    """Return a client of that store on that wire."""
    return connect(API(KEY, SECRET, store=store), wire)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, wire: Wire) -> API:
    """Return a client whose default store cannot be opened."""

    def broken() -> Any:
        raise StorePermissionError("not yours", "chown it")

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", broken)
    return connect(API(KEY, SECRET), wire)


def connect(client: API, wire: Wire) -> API:
    """Put a client on a wire."""
    client.session = wire  # type: ignore[assignment]  # as much of one as is used
    return client


def outcomes(store: MemoryStore, key: str = KEY) -> list[str]:
    """Return how the calls of a key ended, the first one first."""
    calls = sorted(store.calls(fingerprint(key)), key=lambda call: call.nonce)
    return [call.outcome for call in calls]


def close_key(store: MemoryStore) -> None:
    """Act as another process that closes the key."""

    def close(state: KeyState, _: object) -> Changed:
        return Changed(state._replace(closed=True, diagnosis="closed by another"))

    MemoryStore.update(store, fingerprint(KEY), close)
