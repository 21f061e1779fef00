"""What a general mutation run over nonces.py found untested: each test here fails for one of its changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    KeyClosedError,
    NonceError,
    NonceRangeError,
    UnitMismatchError,
)
from persistent_nonce.state import MAX_NONCE, KeyState
from tests.support.states import KEY, WALL, at, fresh

#: A day in ns that no float holds: every number computed from it must come out to the last digit.
ODD = WALL + 1
NOW = at()._replace(wall=ODD)

#: The last nonce of a key: its errors name it.
LAST = 2**63 - 1


def reading(wall: int, unit: str = "ns") -> KeyState:
    """Return the state of a key after an issue at `wall`."""
    return nonces.issue(fresh(unit), at()._replace(wall=wall))


# --- whole numbers: nanoseconds exceed what a float holds


def test_a_ceiling_is_exact() -> None:
    """A ceiling in ns lies exactly 5 s above its nonce (I4)."""
    assert nonces.ceiling(reading(ODD)) == ODD + 5 * SECOND


@pytest.mark.parametrize("state", [fresh("ns"), fresh("ns")._replace(nonce=ODD + 2)])
def test_a_jump_is_exact(state: KeyState) -> None:
    """A jump in ns is as long as it says, to the last digit, from the clock as from the mark (I10)."""
    state = nonces.jump(state, NOW, 60 * SECOND + 1)
    assert state.seen == ODD
    assert state.nonce == max(ODD, state.nonce - 60 * SECOND - 1) + 60 * SECOND + 1
    assert state.nonce in (ODD + 60 * SECOND + 1, ODD + 60 * SECOND + 3)
    assert all(type(value) is int for value in (state.nonce, state.seen))


def test_a_short_jump_is_whole() -> None:
    """What is no whole number of ticks is cut, in the jump as in the clock's reading."""
    state = nonces.jump(fresh("s"), NOW, 60 * SECOND + 1)
    assert (state.nonce, type(state.nonce)) == (WALL // SECOND + 60, int)
    assert type(state.seen) is int


def test_a_floor_is_exact() -> None:
    """The clock's reading that a floor is measured from is a whole number (I10)."""
    state = nonces.raise_floor(fresh("ns"), NOW, ODD + 7)
    assert (state.seen, state.offset) == (ODD, 7)
    assert nonces.raise_floor(fresh("s"), NOW, WALL).seen == WALL // SECOND
    assert type(nonces.raise_floor(fresh("s"), NOW, WALL).seen) is int


def test_a_lifted_mark_is_exact() -> None:
    """It lies 5 s above the greatest of row and mark, or at the clock, to the last digit (I4, I10)."""
    state = fresh("ns")._replace(nonce=ODD, synced=ODD, ceiling=ODD)
    lifted = nonces.lift(state, NOW, "ns", ODD + 2)
    assert lifted.nonce == lifted.ceiling == ODD + 2 + 5 * SECOND
    assert lifted.synced == 0
    late = nonces.lift(state, NOW._replace(wall=ODD + 60 * SECOND), "ns", ODD)
    assert (late.nonce, type(late.nonce)) == (ODD + 60 * SECOND, int)
    whole = nonces.lift(fresh("s"), NOW, "s", WALL // SECOND - 60)
    assert (whole.nonce, type(whole.nonce)) == (WALL // SECOND, int)


def test_a_lifted_key_keeps_what_was_refused() -> None:
    """A key that was closed before it was rebuilt says why still (I10)."""
    state = fresh("ms")._replace(refusals=3, closed=True, diagnosis="refused")
    lifted = nonces.lift(state, NOW, "ms", 5)
    assert (lifted.refusals, lifted.closed, lifted.diagnosis) == (3, True, "refused")


# --- the end of the range


def test_a_lifted_mark_leaves_a_nonce() -> None:
    """A mark at the end of the range is lifted to the one before it, not beyond (I10)."""
    assert nonces.lift(fresh("ns"), NOW, "ns", LAST).nonce == LAST - 1


def test_the_last_nonce_of_all_is_too_far_ahead_like_any_other() -> None:
    """Who is told to take a new key has no nonce left at all; here there is one, far ahead of the clock (I10)."""
    with pytest.raises(NonceRangeError, match="ahead of its clock"):
        nonces.issue(fresh("ms")._replace(nonce=LAST - 1), at())


def test_the_clock_at_the_end_of_the_range_issues_nothing() -> None:
    """A clock at 2**63 - 1 ticks is one that can be kept no better: no nonce is made of it (I10)."""
    assert reading(LAST - 1).nonce == LAST - 1
    with pytest.raises(NonceRangeError, match="the clock stands beyond"):
        reading(LAST)


def test_a_unit_in_which_the_clock_does_not_fit() -> None:
    """A finer unit is refused if the clock stands at its end, and taken one tick before (I10)."""
    state, now = fresh("ms"), at()._replace(wall=LAST)
    with pytest.raises(NonceRangeError):
        nonces.set_unit(state, now, "ns")
    assert nonces.set_unit(state, now._replace(wall=LAST - 1), "ns").unit == "ns"


@pytest.mark.parametrize("name", ["nonce", "seen"])
def test_a_unit_in_which_the_mark_or_its_clock_does_not_fit(name: str) -> None:
    """A finer unit is refused if the mark, or the clock it was measured by, would pass the end (I10)."""
    far = {"nonce": 0, "seen": 0, name: LAST // 1_000 + 1}
    state = fresh("us")._replace(nonce=far["nonce"], seen=far["seen"])
    with pytest.raises(NonceRangeError):
        nonces.set_unit(state, at(), "ns")


# --- what the errors say


@pytest.mark.parametrize(
    ("act", "kind", "said", "hint"),
    [
        (
            lambda: nonces.check_open(
                fresh()._replace(closed=True, diagnosis="refused")
            ),
            KeyClosedError,
            f"key {KEY} is closed: refused",
            "raise-floor, set-unit or reopen opens it for all processes",
        ),
        (
            lambda: reading(LAST),
            NonceRangeError,
            f"the clock stands beyond the last nonce of key {KEY}, {LAST}",
            "set the clock, or use a coarser unit for a new key",
        ),
        (
            lambda: nonces.issue(fresh("ms")._replace(nonce=LAST), at()),
            NonceRangeError,
            f"key {KEY} is out of nonces: {LAST + 1} is above {LAST}",
            "create a new key",
        ),
        (
            lambda: nonces.issue(fresh("ms"), at(), 1_800_001),
            NonceRangeError,
            f"key {KEY} would be 1800 s ahead of its clock",
            "a runaway loop, or use a finer unit",
        ),
        (
            lambda: nonces.raise_floor(fresh(), at(), -1),
            NonceRangeError,
            "a floor of -1 leaves no nonce above it",
            f"a floor lies between 0 and {LAST - 1}",
        ),
        (
            lambda: nonces.set_unit(fresh("ms"), at(), "s"),
            UnitMismatchError,
            f"key {KEY} counts in ms; s is coarser",
            "nonces cannot go down: only a finer unit is possible",
        ),
        (
            lambda: nonces.set_unit(fresh("ms")._replace(nonce=LAST // 10), at(), "us"),
            NonceRangeError,
            f"the mark of key {KEY} does not fit into us",
            "create a new key",
        ),
    ],
)
def test_each_error_says_what_is_wrong_and_what_to_do(
    act: Callable[[], object], kind: type[NonceError], said: str, hint: str
) -> None:
    """An error names the key and the numbers, and its hint what can be done (I9)."""
    with pytest.raises(kind) as raised:
        act()
    assert type(raised.value) is kind
    assert raised.value.args == (said, hint)


def test_the_last_nonce_is_what_fits() -> None:
    """SQLite's integers end here."""
    assert LAST == MAX_NONCE
