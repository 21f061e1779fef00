"""What a gate and a call refuse when they are made, and the settings that a gate finds stored."""

from __future__ import annotations

from typing import Any

import pytest

from persistent_nonce import CallGate, Rate
from persistent_nonce.errors import ConfigurationError, UnitMismatchError
from tests.support import stepped
from tests.support.stepped import KEY, Process, Spied, outcomes, state_of

clock, store, gate = stepped.clock, stepped.store, stepped.gate


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "1"},
        {"hold_timeout": 0},
        {"min_interval": -0.1},
        {"min_interval": True},
        {"label": "a/b"},
        {"unit": "hours"},
    ],
)
def test_unusable_settings(store: Spied, settings: dict[str, Any]) -> None:
    """A gate refuses what it cannot use when it is made."""
    with pytest.raises(ConfigurationError):
        CallGate(store, KEY, **settings)


@pytest.mark.parametrize("key", ["", " ", None, b"key"])
def test_unusable_keys(store: Spied, key: Any) -> None:
    """A key is text, and not empty."""
    with pytest.raises(ConfigurationError):
        CallGate(store, key)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("", {}),
        ("two\nlines", {}),
        ("Balance", {"cost": -1}),
        ("Balance", {"cost": 1.5}),
        ("Balance", {"cost": True}),
        ("Balance", {"priority": "high"}),
        ("Balance", {"timeout": -1}),
    ],
)
def test_unusable_calls(gate: CallGate, method: str, options: dict[str, Any]) -> None:
    """A call refuses what it cannot use when it is made, not when it is its turn."""
    with pytest.raises(ConfigurationError):
        gate.call(method, **options)


def test_a_cost_that_the_counter_never_allows(store: Spied) -> None:
    """A call that could wait for ever is refused at once, and leaves nothing behind."""
    process = Process(store, rate=Rate(1.0, 3))
    with (
        pytest.raises(ConfigurationError, match="costs 4"),
        process.gate.call("Ledgers", cost=4),
    ):
        pass
    assert state_of(store).queue == ()
    assert process.clean


def test_settings_are_followed_or_refused(store: Spied) -> None:
    """A gate without an opinion follows the stored settings; one with another opinion is refused, unsent."""
    with CallGate(store, KEY, unit="us", min_interval=0.5).call("Balance") as call:
        nonce = call.nonce
    with CallGate(store, KEY).call("Balance") as call:
        assert call.waited == pytest.approx(0.5)
        assert call.nonce >= nonce + 500_000
    with pytest.raises(UnitMismatchError):
        CallGate(store, KEY, unit="ns").call("Balance").__enter__()
    with pytest.raises(ConfigurationError, match="min_interval"):
        CallGate(store, KEY, min_interval=0.1).call("Balance").__enter__()
    assert outcomes(store) == ["ok", "ok"]
