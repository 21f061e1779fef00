"""The recipe for other exchanges, as it is printed in docs/clients.md, against strict stand-ins of two of them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from persistent_nonce import CallGate, InvalidNonceError, Recovery, SQLiteStore
from persistent_nonce.errors import (
    ConfigurationError,
    KeyClosedError,
    NonceRangeError,
)
from tests.support import venues
from tests.support.venues import Bitfinex, Gemini, Venue

PAGE: Final = Path(__file__).parents[2] / "docs" / "clients.md"

#: Seconds for what takes less than one: a guard.
GUARD: Final = 60

Call = Callable[..., Any]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the default store in a directory of its own, and return its database."""
    path = tmp_path / "nonces.db"
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(path))
    return path


def recipe(name: str, venue: Venue, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the block of the page for the client `name`, and return the function that it makes."""
    found = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    (block,) = [text for text in found if f"import KEY, {name}\n" in text]
    mybot = ModuleType("mybot")
    vars(mybot).update({"KEY": venues.KEY, name: venue.called})
    monkeypatch.setitem(sys.modules, "mybot", mybot)
    made: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), made)  # noqa: S102 - our own page
    call: Call = made["call"]
    return call


@pytest.fixture
def bitfinex() -> Iterator[Bitfinex]:
    """Return an exchange that answers."""
    venue = Bitfinex()
    with venue.open():
        yield venue


@pytest.fixture
def gemini() -> Iterator[Gemini]:
    """Return an exchange that answers."""
    venue = Gemini()
    with venue.open():
        yield venue


def test_calls_of_threads_are_taken_in_order(
    bitfinex: Bitfinex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that call at once are never two at the exchange, and none of their nonces is refused (I2, I5)."""
    call = recipe("bitfinex", bitfinex, monkeypatch)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(call, [f"v2/auth/r/{n}" for n in range(24)]))
    assert [reply[0] for reply in replies] == ["done"] * 24
    assert bitfinex.refused == []
    assert bitfinex.overlaps == 0
    assert bitfinex.seen == sorted(bitfinex.seen)


def test_a_refused_nonce_is_healed(
    bitfinex: Bitfinex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A floor 30 s ahead, left by another program, costs one refusal."""
    call = recipe("bitfinex", bitfinex, monkeypatch)
    bitfinex.floor = bitfinex.seen[-1] + 30_000_000
    assert call("v2/auth/r/wallets")[0] == "done"
    assert len(bitfinex.refused) == 1


def test_a_jump_that_the_exchange_would_refuse_is_not_made(
    bitfinex: Bitfinex, place: Path
) -> None:
    """Near the greatest nonce a jump stops at it, and what lies above is never sent (I10)."""
    most = time.time_ns() // 1_000 + 40_000_000
    bitfinex.floor = most + 60_000_000
    with SQLiteStore(place) as store:
        recovery = Recovery(greatest=most)
        gate = CallGate(store, venues.KEY, unit="us", recovery=recovery)
        attempts = gate.attempts("wallets")
        with next(attempts) as call:
            assert bitfinex.called("wallets", call.nonce)[0] == "error"
            raise InvalidNonceError
        with pytest.raises(NonceRangeError, match=str(most)):
            next(attempts).__enter__()
        assert store.read(gate.key).nonce == most
    assert len(bitfinex.seen) == len(bitfinex.refused) == 1


def test_a_unit_that_does_not_fit_sends_nothing(
    bitfinex: Bitfinex, place: Path
) -> None:
    """In nanoseconds the clock itself is beyond what the exchange takes, which is said before a byte leaves (I10)."""
    with SQLiteStore(place) as store:
        recovery = Recovery(greatest=2**53 - 1)
        gate = CallGate(store, venues.KEY, unit="ns", recovery=recovery)
        with pytest.raises(NonceRangeError, match="coarser unit"):
            gate.call("wallets").__enter__()
    assert bitfinex.seen == []


def test_no_jump_leaves_the_window(
    gemini: Gemini, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the exchange refuses, no nonce lies more than 25 s ahead; then the key is closed (I10)."""
    call = recipe("gemini", gemini, monkeypatch)
    gemini.floor = gemini.seen[-1] + 3_600_000
    with pytest.raises(InvalidNonceError):
        call("v1/balances")
    now = time.time() * 1_000
    assert len(gemini.refused) == 3
    assert max(gemini.refused) < now + 25_000
    with pytest.raises(KeyClosedError):
        call("v1/balances")
    assert len(gemini.refused) == 3


def test_a_floor_within_the_window_is_healed(
    gemini: Gemini, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A floor 8 s ahead is passed by one jump, and what is sent then is within the window."""
    call = recipe("gemini", gemini, monkeypatch)
    gemini.floor = gemini.seen[-1] + 8_000
    assert call("v1/balances")["result"] == "ok"
    assert len(gemini.refused) == 1


def test_the_greatest_nonce_is_kept_with_the_key(
    bitfinex: Bitfinex, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program follows it by leaving it out, and is refused with another one."""
    recipe("bitfinex", bitfinex, monkeypatch)
    with SQLiteStore(place) as store:
        gate = CallGate(store, venues.KEY)
        with gate.call("wallets") as call:
            assert call.nonce < 2**53
        assert store.read(gate.key).greatest == 2**53 - 1
        with pytest.raises(ConfigurationError, match="greatest"):
            CallGate(store, venues.KEY, recovery=Recovery()).call("x").__enter__()
