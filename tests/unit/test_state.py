"""The values of a key's state: what arguments they take, and what follows from them."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest

from persistent_nonce.arguments import check_label, seconds_argument
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.state import (
    MAX_NONCE,
    UNITS,
    KeyState,
    Rate,
    Recovery,
    check_unit,
    fingerprint,
)
from tests.support.states import KEY, WALL

WHOLE: list[Any] = [0, -1, True, 1.0, "3", None]


def test_fingerprint() -> None:
    """A key is known by 16 hex digits of the SHA-256 of it, which do not contain it (I11)."""
    key = "public-part-of-a-key"
    assert fingerprint(key) == hashlib.sha256(key.encode()).hexdigest()[:16]
    assert fingerprint("other") != fingerprint(key)
    assert fingerprint(f" {key}\n") == fingerprint(key)  # as a file gives it
    assert len(fingerprint("\ud800")) == 16


@pytest.mark.parametrize("key", ["", " \n", None, b"bytes"])
def test_no_key(key: Any) -> None:
    """A missing key is refused without being repeated in the error (I11)."""
    with pytest.raises(ConfigurationError) as caught:
        fingerprint(key)
    assert "bytes" not in str(caught.value)


def test_units() -> None:
    """The five units run from coarse to fine, each dividing the one before, and cannot be altered."""
    sizes = list(UNITS.values())
    assert list(UNITS) == ["s", "ms", "us", "10ns", "ns"]
    assert sizes == [SECOND, 10**6, 10**3, 10, 1]
    with pytest.raises(TypeError):
        UNITS["fs"] = 1  # type: ignore[index]  # the mistake under test


def test_check_unit() -> None:
    """A known unit passes; another is an error that lists them."""
    assert check_unit("10ns") == "10ns"
    with pytest.raises(ConfigurationError, match=r"'min'.*s, ms, us, 10ns, ns"):
        check_unit("min")


@pytest.mark.parametrize("label", ["a", "bot 1", "x" * 64, "Köln", "a.b-c_d"])
def test_label(label: str) -> None:
    """A label is any short printable text."""
    assert check_label(label) == label


@pytest.mark.parametrize(
    "label",
    ["", " a", "a ", "x" * 65, "a/b", "a\nb", "a\0", "a\u202eb", "a\u00a0b", 7, None],
)
def test_unusable_label(label: Any) -> None:
    """Control, bidirectional and separating characters, slashes and outer spaces are refused, on one line."""
    with pytest.raises(ConfigurationError) as caught:
        check_label(label)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 0.2, 366 * 86_400])
def test_seconds(value: float) -> None:
    """Anything from nothing to a leap year is a length of time."""
    assert seconds_argument("x", value) == value
    assert isinstance(seconds_argument("x", value), float)


@pytest.mark.parametrize(
    "value", [-1, math.nan, math.inf, True, "1", None, 366 * 86_400 + 1]
)
def test_unusable_seconds(value: Any) -> None:
    """Everything else is an error that names the argument."""
    with pytest.raises(ConfigurationError, match="the_name"):
        seconds_argument("the_name", value)


def test_least_seconds() -> None:
    """A least value is the least."""
    assert seconds_argument("x", 1, least=1.0) == 1
    with pytest.raises(ConfigurationError):
        seconds_argument("x", 0.999, least=1.0)


def test_rate() -> None:
    """A rate takes a time, a burst and a printable tier."""
    assert Rate(1 / 0.33, 14, "starter").burst == 14
    assert Rate(0, 1).every == 0
    for burst in [*WHOLE, 1_000_001]:
        with pytest.raises(ConfigurationError, match="burst"):
            Rate(1.0, burst)
    unusable: list[Any] = [-1.0, math.nan, "1"]
    for every in unusable:
        with pytest.raises(ConfigurationError, match="every"):
            Rate(every, 1)
    with pytest.raises(ConfigurationError, match="label"):
        Rate(1.0, 1, "a\nb")


def test_recovery_defaults() -> None:
    """The defaults are those that healed real keys: 60 s, 30 s, tenfold, 3 attempts, 15 minutes."""
    assert Recovery() == Recovery(
        jump=60.0,
        wait=30.0,
        factor=10.0,
        attempts=3,
        max_lead=900.0,
        greatest=2**63 - 1,
    )


@pytest.mark.parametrize("name", ["jump", "wait", "factor", "max_lead"])
def test_unusable_recovery(name: str) -> None:
    """Each of its times is checked and named."""
    for value in (-1.0, math.nan, math.inf):
        arguments: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=name):
            Recovery(**arguments)


def test_unusable_greatest_nonce() -> None:
    """The greatest nonce is a whole number from 1 to 2**63 - 1."""
    for greatest in [*WHOLE, 2**63]:
        with pytest.raises(ConfigurationError, match="greatest"):
            Recovery(greatest=greatest)


def test_unusable_attempts() -> None:
    """Attempts are a whole number from 1 to 100, and a factor never shortens."""
    for attempts in [*WHOLE, 101]:
        with pytest.raises(ConfigurationError, match="attempts"):
            Recovery(attempts=attempts)
    with pytest.raises(ConfigurationError, match="factor"):
        Recovery(factor=0.5)


def test_settings_of_a_key_that_has_none() -> None:
    """Without a stored opinion a key counts ms, paces 0.2 s, allows 3 attempts and 15 minutes of lead."""
    state = KeyState(KEY)
    assert (state.tick, state.interval, state.most_attempts) == (10**6, SECOND // 5, 3)
    assert (state.bound, state.rate) == (900_000, None)


def test_stored_settings_are_followed() -> None:
    """A stored value wins over the default, a stored zero included."""
    state = KeyState(KEY, unit="us", min_interval=0, attempts=1, max_lead=0)
    assert (state.tick, state.interval, state.most_attempts) == (1_000, 0, 1)
    assert state.bound == 0


def test_stored_rate() -> None:
    """The stored counter comes back as a Rate."""
    state = KeyState(KEY, every=3 * SECOND, burst=14, tier="starter")
    assert state.rate == Rate(3.0, 14, "starter")


def test_bound() -> None:
    """The bound is seen + offset + max_lead, at most 2**63 - 1 (I10)."""
    assert KeyState(KEY, seen=10, offset=5).bound == 900_015
    assert KeyState(KEY, unit="ns", seen=MAX_NONCE - 5).bound == MAX_NONCE


def test_lead() -> None:
    """The lead is how many seconds the mark lies ahead of the clock, negative behind it."""
    state = KeyState(KEY, nonce=WALL // 10**6 + 1_500)
    assert state.lead(WALL) == 1.5
    assert state.lead(WALL + 2 * SECOND) == -0.5
