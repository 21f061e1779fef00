"""Arguments that cannot be used are refused: by an error of our tree with a hint, and they leave no trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce import (
    CallGate,
    NonceProvider,
    Rate,
    Recovery,
    SQLiteStore,
    kraken,
)
from persistent_nonce.arguments import check_label, seconds_argument
from persistent_nonce.errors import (
    ConfigurationError,
    NonceRangeError,
    UnitMismatchError,
)
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.memory import MemoryStore
from tests.support.refusals import good, refused

#: Names that are refused as a label, a method or a tier.
NAMES: Final = (
    "", " ", "a/", "/a", "a\nb", "a\x00b", "a\x1b[31mb", "a\u202eb", "x" * 65, " a", "\ud800",
    "a/" * 99 + "a", 7, None
)  # fmt: skip

#: Lengths of time that are refused.
TIMES: Final = (-1, -1e-9, math.nan, math.inf, -math.inf, 1e12, True, "5")


def enter(gate: CallGate, *names: Any, **options: Any) -> None:
    """Make a call."""
    with gate.call(*names, **options):
        pass


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """Return a store that does not matter."""
    store = MemoryStore()
    yield store
    assert store.keys() == []  # nothing that was refused has left a trace
    store.close()


@pytest.mark.parametrize("key", ["", " ", "\n", None, 7, b"key"])
def test_an_unusable_key(store: MemoryStore, key: Any) -> None:
    """An API key that is empty or no string is refused."""
    for make in (NonceProvider, CallGate):
        refused(ConfigurationError, partial(make, store, key))


@pytest.mark.parametrize("thing", ["nonces.db", None, 7, SQLiteStore])
def test_a_store_that_is_none(thing: Any) -> None:
    """A path in a store's place is refused at once, with what would do."""
    for make in (NonceProvider, CallGate):
        text = refused(ConfigurationError, partial(make, thing, "k"))
        assert "SQLiteStore(path)" in text


def test_swapped_arguments(store: MemoryStore) -> None:
    """Where store and key are swapped, the error speaks of the store, and does not show the key (I11)."""
    for make in (NonceProvider, CallGate):
        text = refused(ConfigurationError, partial(make, "a key", store))  # type: ignore[arg-type]  # the mistake
        assert "store" in text
        assert "a key" not in text


@pytest.mark.parametrize("rate", ["pro", (3, 14), {}])
def test_a_rate_that_is_none(store: MemoryStore, rate: Any) -> None:
    """The name of a tier, or two numbers, in a rate's place is refused at once."""
    text = refused(ConfigurationError, lambda: CallGate(store, "k", rate=rate))
    assert "kraken.rate" in text


@pytest.mark.parametrize("recovery", ["none", {"attempts": 2}, 0])
def test_a_recovery_that_is_none(store: MemoryStore, recovery: Any) -> None:
    """So is a dictionary in a recovery's."""
    refused(ConfigurationError, lambda: CallGate(store, "k", recovery=recovery))


@pytest.mark.parametrize("unit", ["", "MS", "minutes", "1ms", 1000, "x" * 1000])
def test_an_unknown_unit(store: MemoryStore, unit: Any) -> None:
    """A unit that does not exist is refused, with those that do."""
    text = refused(ConfigurationError, lambda: NonceProvider(store, "k", unit=unit))
    assert "one of s, ms, us, 10ns, ns" in text
    refused(ConfigurationError, lambda: CallGate(store, "k", unit=unit))


@pytest.mark.parametrize("name", ["a/b", "../x", *NAMES[:-1]])
def test_an_unusable_label(store: MemoryStore, name: Any) -> None:
    """A label that could leave a directory, a line or a terminal is refused."""
    refused(ConfigurationError, lambda: NonceProvider(store, "k", label=name))
    refused(ConfigurationError, lambda: CallGate(store, "k", label=name))


@pytest.mark.parametrize("name", NAMES)
def test_an_unusable_method(store: MemoryStore, name: Any) -> None:
    """So is the name of a method."""
    refused(ConfigurationError, lambda: enter(CallGate(store, "k"), name))


@given(st.text())
def test_a_label_that_is_taken_is_harmless(label: str) -> None:
    """Whatever is taken as a label is one printable line without a slash; anything else is refused well."""
    try:
        taken = check_label(label)
    except ConfigurationError as error:
        good(error)
    else:
        assert taken.isprintable()
        assert "/" not in taken
        assert 0 < len(taken) <= 64


@pytest.mark.parametrize("value", TIMES)
def test_an_absurd_time(store: MemoryStore, value: Any) -> None:
    """A time that is negative, endless, longer than a year or no number is refused everywhere."""
    gate = CallGate(store, "k")
    attempts: list[Callable[[], object]] = [
        lambda: seconds_argument("timeout", value),
        lambda: CallGate(store, "k", timeout=value),
        lambda: CallGate(store, "k", hold_timeout=value),
        lambda: CallGate(store, "k", min_interval=value),
        lambda: enter(gate, "Balance", timeout=value),
        lambda: SQLiteStore("never.db", timeout=value),
        lambda: Rate(value, 1),
        lambda: Recovery(jump=value),
        lambda: Recovery(wait=value),
        lambda: Recovery(factor=value),
        lambda: Recovery(max_lead=value),
    ]
    for attempt in attempts:
        refused(ConfigurationError, attempt)


def test_no_time_at_all(store: MemoryStore) -> None:
    """A lock or a call that could last no time is refused."""
    refused(ConfigurationError, lambda: CallGate(store, "k", hold_timeout=0))
    refused(ConfigurationError, lambda: SQLiteStore("never.db", timeout=0))


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", 10**9, None])
def test_an_absurd_cost(store: MemoryStore, value: Any) -> None:
    """A cost or a burst is a whole number of a sensible size; a number of attempts too."""
    refused(ConfigurationError, lambda: enter(CallGate(store, "k"), "M", cost=value))
    refused(ConfigurationError, lambda: Rate(1.0, value))
    refused(ConfigurationError, lambda: Recovery(attempts=value))


@pytest.mark.parametrize("value", [1.0, True, "1", 10**9, -(10**9), None])
def test_an_absurd_priority(store: MemoryStore, value: Any) -> None:
    """A priority is a whole number."""
    gate = CallGate(store, "k")
    refused(ConfigurationError, lambda: enter(gate, "M", priority=value))


def test_a_cost_above_the_burst() -> None:
    """A call that could never be let go is refused at once, and leaves nothing in the queue."""
    store = MemoryStore()
    gate = CallGate(store, "k", rate=Rate(1.0, 4))
    text = refused(ConfigurationError, lambda: enter(gate, "Ledgers", cost=5))
    assert "costs 5, more than the 4" in text
    assert "set-tier" in text
    assert store.read(fingerprint("k")).queue == ()


@pytest.mark.parametrize("outcome", ["in_flight", "interrupted", "", "fine", None])
def test_an_absurd_outcome(outcome: Any) -> None:
    """A call cannot be said to end in a way that is none; it can still be said how it did."""
    with CallGate(MemoryStore(), "k").call("Balance") as call:
        refused(ConfigurationError, lambda: call.settle(outcome))
        call.settle("error")


def test_a_back_off_whose_arguments_are_swapped() -> None:
    """What the exchange said is a string; the call goes on, and is not left in flight."""
    store = MemoryStore()
    with CallGate(store, "k").call("Balance") as call:
        absurd: Any = 5
        refused(ConfigurationError, lambda: call.back_off(absurd, 1.0))
        refused(ConfigurationError, lambda: call.settle("error", absurd))
    assert [record.outcome for record in store.calls()] == ["ok"]


@pytest.mark.parametrize("count", [0, -1, 10**7, 1.0, True, "3", None])
def test_an_absurd_number_of_nonces(store: MemoryStore, count: Any) -> None:
    """As many nonces can be reserved as a program may use."""
    refused(ConfigurationError, lambda: NonceProvider(store, "k").reserve(count))


@pytest.mark.parametrize("floor", [2**63 - 1, 2**63, 2**64, 10**40, -1])
def test_a_floor_out_of_range(store: MemoryStore, floor: int) -> None:
    """A floor above which no nonce is left is refused, and a negative one."""
    refused(NonceRangeError, lambda: NonceProvider(store, "k").raise_floor(floor))


@pytest.mark.parametrize("floor", [1.5, "7", None, True])
def test_a_floor_that_is_no_number(store: MemoryStore, floor: Any) -> None:
    """A floor is a whole number."""
    refused(ConfigurationError, lambda: NonceProvider(store, "k").raise_floor(floor))


def test_the_greatest_floor() -> None:
    """Above the greatest floor there is one nonce, and then an error."""
    nonces = NonceProvider(MemoryStore(), "k")
    nonces.raise_floor(2**63 - 2)
    assert nonces.next() == 2**63 - 1
    refused(NonceRangeError, nonces.next)


def test_another_unit_than_the_key_s() -> None:
    """A program with another unit, rate or interval than the stored one is refused, with the command to change it."""
    store = MemoryStore()
    NonceProvider(store, "k", unit="ms").next()
    assert "set-unit" in refused(UnitMismatchError, NonceProvider(store, "k", unit="us").next)  # fmt: skip
    enter(CallGate(store, "k", rate=Rate(1.0, 5), min_interval=0.1), "M")
    for options in ({"rate": Rate(2.0, 5)}, {"min_interval": 0.2}):
        gate = CallGate(store, "k", **options)
        text = refused(ConfigurationError, partial(enter, gate, "M"))
        assert "set-tier" in text


def test_an_unknown_tier() -> None:
    """A tier that does not exist is refused, with those that do."""
    assert "starter, intermediate, pro" in refused(ConfigurationError, lambda: kraken.rate("gold"))  # fmt: skip
