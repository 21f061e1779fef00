"""A gate with every step, clock and process in a test's hands.

A test module has the fixtures below by giving them its own names, as in `clock, store = stepped.clock, stepped.store`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

import pytest

from persistent_nonce import CallGate
from persistent_nonce.calls import Call
from persistent_nonce.clock import Now
from persistent_nonce.doorbell import Doorbell
from persistent_nonce.errors import NonceError
from persistent_nonce.state import Change, Changed, KeyState, Outcome
from persistent_nonce.steps import Steps
from persistent_nonce.stores.memory import MemoryStore
from tests.support.simulated import Hands

__all__ = [
    "KEY",
    "BoomError",
    "Process",
    "Spied",
    "Wanting",
    "change",
    "clock",
    "gate",
    "outcomes",
    "state_of",
    "store",
]

KEY: Final = "the public part of a key"


class BoomError(Exception):
    """The error of these tests."""


class Spied(MemoryStore):
    """A store that counts, fails, or lets something happen first."""

    def __init__(self, clock: Hands) -> None:
        super().__init__(clock=clock)
        self.updates = 0
        self.reads = 0
        self.failures: list[NonceError] = []
        self.before_update: list[Callable[[], object]] = []

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Count, do what was ordered, and update."""
        self.updates += 1
        if self.before_update:
            self.before_update.pop()()
        if self.failures:
            raise self.failures.pop()
        return super().update(key, change, durable=durable)

    def read(self, key: str) -> KeyState:
        """Count, and read."""
        self.reads += 1
        return super().read(key)


class Process:
    """A process of its own, as the shared state sees it: its session, and its gate."""

    _pids = itertools.count(4_194_305)  # above the greatest that Linux gives

    def __init__(self, store: Spied, **settings: Any) -> None:
        self.store = Spied(store.clock)  # type: ignore[arg-type]  # a stand-in for it
        mine = self.store.__dict__
        mine.update(store.__dict__, updates=0, reads=0, failures=[], before_update=[])
        mine["_session"] = None
        self.session = self.store.session()
        self.pid = next(self._pids)
        self.session.name = f"{self.pid}-1-1-{self.session.name[-8:]}"
        self.gate = CallGate(self.store, KEY, **settings)

    def wants(self, method: str = "Balance", **options: Any) -> Wanting:
        """Stand in the queue with a call."""
        return Wanting(self.gate.call(method, **options))

    @property
    def clean(self) -> bool:
        """Whether nothing of a call is left in this process."""
        return not self.session.live and not self.session.callers


class Wanting:
    """A call whose way in is driven step by step."""

    def __init__(self, call: Call) -> None:
        self.call = call
        call._begin()
        self.steps: Steps[None] = call._enter()
        self.inside = self.look()

    def look(self) -> bool:
        """Go on up to the next pause, or until the call has begun: True."""
        resume: Callable[[Any], Any] = self.steps.send
        value: Any = None
        try:
            while True:
                step = resume(value)
                if not callable(step):
                    return False
                try:
                    resume, value = self.steps.send, step()
                except NonceError as error:
                    resume, value = self.steps.throw, error
        except StopIteration:
            return True

    def leave(self, outcome: Outcome = "ok") -> None:
        """End the call."""
        self.call.settle(outcome)
        self.call.__exit__(None, None, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """Return a clock that goes on only when somebody sleeps, or by hand."""
    hands = Hands()
    hands.forward(1_000)
    monkeypatch.setattr(Doorbell, "wait", lambda _, seconds: hands.forward(seconds))
    return hands


@pytest.fixture
def store(clock: Hands) -> Spied:
    """Return a store of that clock."""
    return Spied(clock)


@pytest.fixture
def gate(store: Spied) -> CallGate:
    """Return a gate with everything as it comes."""
    return CallGate(store, KEY)


def state_of(store: Spied) -> KeyState:
    """Return the state of the key."""
    return store.read(CallGate(store, KEY).key)


def change(store: Spied, how: Callable[[KeyState, Now], KeyState]) -> None:
    """Change the state of the key as another program would."""
    key = CallGate(store, KEY).key
    MemoryStore.update(store, key, lambda state, now: Changed(how(state, now)))


def outcomes(store: Spied) -> list[Outcome]:
    """Return how the calls ended, the oldest first."""
    return [record.outcome for record in reversed(store.calls())]
