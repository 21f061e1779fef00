"""What the exchange says of a key, held against what is known here: each finding, and what follows for the key."""

from __future__ import annotations

from typing import Final

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.findings import Finding
from persistent_nonce.nonces import issue
from persistent_nonce.state import MAX_NONCE, UNITS, CallRecord, KeyState
from persistent_nonce.verification import KeyInfo, compare, conclude, finer_unit
from tests.support.states import WALL, at, fresh, recorded

MS: Final = WALL // UNITS["ms"]
NOW: Final = at()

#: A key that has asked with this nonce.
STATE: Final = issue(fresh("ms"), NOW)
ASKED: Final = STATE.nonce


def found(
    about: str,
    info: KeyInfo,
    *,
    known: list[CallRecord] | None = None,
    state: KeyState = STATE,
    asked: int = ASKED,
) -> Finding:
    """Return what was found about one thing."""
    findings = {f.about: f for f in compare(state, NOW, info, asked, known or [])}
    assert list(findings) == ["floor", "unit", "nonce window", "last use"]
    for finding in findings.values():
        assert finding.wrong == bool(finding.do), "what is wrong says what to do"
    return findings[about]


def info(nonce: int = ASKED, window: int = 0, used: float | None = None) -> KeyInfo:
    """Return an answer of the exchange."""
    return KeyInfo(nonce, window, used)


# --- the floor


@pytest.mark.parametrize(
    ("nonce", "known"),
    [
        (ASKED, []),
        (ASKED - 5, [ASKED - 9, ASKED - 5]),
        (ASKED - 5, []),
        (ASKED - 9, [ASKED - 5]),
        (0, [ASKED - 5]),
    ],
    ids=["of the question", "of a call", "nothing on record", "before", "a new key"],
)
def test_a_floor_of_ours(nonce: int, known: list[int]) -> None:
    """A value that was issued here, or lies before all that is on record, is nobody else's."""
    calls = [recorded(nonce=n) for n in known]
    assert not found("floor", info(nonce), known=calls).wrong


def test_a_floor_above_ours() -> None:
    """A value above all that was issued is another program's; the finding says how far ahead it is."""
    finding = found("floor", info(ASKED + 5_000))
    assert finding.wrong
    for word in (str(ASKED + 5_000), str(ASKED), "5 s ahead", "another program"):
        assert word in finding.said
    assert "key of its own" in finding.do


def test_a_floor_between_ours() -> None:
    """A value among ours that no call had is another program's, which counts beside us."""
    calls = [recorded(nonce=ASKED - 9), recorded(nonce=ASKED - 1)]
    finding = found("floor", info(ASKED - 5), known=calls)
    assert finding.wrong
    assert "no call on record" in finding.said


def test_a_floor_of_a_call_on_record_above_the_mark() -> None:
    """What is on record was issued here, also if the mark does not know of it."""
    calls = [recorded(nonce=ASKED + 9)]
    assert not found("floor", info(ASKED + 9), known=calls).wrong


# --- the unit


@pytest.mark.parametrize("own", [*UNITS])
@pytest.mark.parametrize("foreign", [*UNITS])
def test_a_finer_unit_is_told_by_its_magnitude(own: str, foreign: str) -> None:
    """A nonce that reads as a time near now in a finer unit was made in that; one in a coarser unit tells nothing."""
    nonce = WALL // UNITS[foreign]
    finer = UNITS[foreign] < UNITS[own]
    assert finer_unit(nonce, fresh(own), NOW) == (foreign if finer else None)


@pytest.mark.parametrize("years", [-4.9, 0, 4.9])
def test_near_to_now(years: float) -> None:
    """Within five years a time is near, in one's own unit and in another."""
    wall = WALL + round(years * 366 * 86_400) * SECOND
    assert finer_unit(wall, fresh("ms"), NOW) == "ns"
    assert finer_unit(wall // UNITS["ms"], fresh("ms"), NOW) is None


@pytest.mark.parametrize("nonce", [0, 1, 7 * MS, MAX_NONCE, 5_000 * MS])
def test_no_time_in_any_unit(nonce: int) -> None:
    """A number that is no time near now in any unit tells of none."""
    assert finer_unit(nonce, fresh("ms"), NOW) is None


def test_a_foreign_unit() -> None:
    """The finding names both units, and how to count in the finer one."""
    finding = found("unit", info(WALL // 1_000))
    assert finding.wrong
    assert "in us" in finding.said
    assert "counts in ms" in finding.said
    assert f"set-unit {STATE.key} us" in finding.do
    assert not found("unit", info()).wrong


# --- window and last use


@pytest.mark.parametrize(("window", "wrong"), [(0, False), (1, True), (10_000, True)])
def test_nonce_window(window: int, wrong: bool) -> None:
    """A window other than 0 is wrong, and the finding says how wide it is."""
    finding = found("nonce window", info(window=window))
    assert finding.wrong == wrong
    assert str(window) in finding.said


@pytest.mark.parametrize(
    ("used", "wrong"),
    [(0, False), (-5, False), (5, False), (-6, True), (6, True), (-86_400, True)],
)
def test_last_use_now(used: float, wrong: bool) -> None:
    """A use at the time of the question is our own, within what clocks may differ by."""
    finding = found("last use", info(used=WALL / SECOND + used))
    assert finding.wrong == wrong
    assert "2026-05-2" in finding.said


@pytest.mark.parametrize(
    ("used", "wrong"), [(-106, True), (-104, False), (-85, False), (-83, True)]
)
def test_last_use_by_a_call_of_ours(used: float, wrong: bool) -> None:
    """A use while a call on record was in flight is our own."""
    calls = [recorded(now=at(-100), took=11.0), recorded(now=at(-500), took=None)]
    finding = found("last use", info(used=WALL / SECOND + used), known=calls)
    assert finding.wrong == wrong


def test_last_use_untold() -> None:
    """An exchange that does not say when the key was used says nothing wrong."""
    assert not found("last use", info()).wrong


# --- what follows for the key


RIGHT: Final = [Finding("floor", wrong=False, said="as it is")]
WRONG: Final = [
    Finding("floor", wrong=True, said="too high", do="stop it"),
    *RIGHT,
    Finding("nonce window", wrong=True, said="open", do="set it"),
]


def test_a_higher_floor_is_followed() -> None:
    """The next nonce is greater than the exchange's value, and what is wrong stays as the diagnosis."""
    state = conclude(STATE, NOW, info(ASKED + 5_000), WRONG)
    assert state.nonce == ASKED + 5_000
    assert issue(state, NOW).nonce == ASKED + 5_001
    assert not state.closed
    assert state.diagnosis == "too high (stop it); open (set it)"


@pytest.mark.parametrize("nonce", [0, ASKED - 1, ASKED])
def test_no_floor_is_lowered(nonce: int) -> None:
    """A value of the exchange's that is not above the mark leaves it where it is (I10)."""
    assert conclude(STATE, NOW, info(nonce), RIGHT) == STATE


def test_all_right_clears_the_diagnosis() -> None:
    """Once nothing is wrong, the diagnosis is gone; while something is, it is the newest."""
    state = conclude(STATE, NOW, info(), WRONG)
    assert state.diagnosis
    assert conclude(state, NOW, info(), WRONG[1:]).diagnosis == "open (set it)"
    assert conclude(state, NOW, info(), RIGHT) == STATE


@pytest.mark.parametrize("unit", ["us", "10ns", "ns"])
def test_a_floor_in_a_finer_unit_closes(unit: str) -> None:
    """It is not followed, years ahead of the clock: the key is closed, its mark is as it was (I10)."""
    state = conclude(STATE, NOW, info(WALL // UNITS[unit]), WRONG)
    assert state == STATE._replace(
        closed=True, diagnosis="too high (stop it); open (set it)"
    )


@pytest.mark.parametrize("nonce", [MAX_NONCE, MAX_NONCE + 1, 2**64 - 1])
def test_no_nonce_left_closes(nonce: int) -> None:
    """Above the greatest nonce there is none: the key is closed."""
    state = conclude(STATE, NOW, info(nonce), WRONG)
    assert (state.closed, state.nonce) == (True, ASKED)


def test_a_floor_beyond_what_the_exchange_takes_closes() -> None:
    """Where the key's greatest nonce leaves none above the floor, the key is closed, with the reason (I10)."""
    state = STATE._replace(greatest=STATE.nonce + 10)
    closed = conclude(state, NOW, info(STATE.nonce + 10), WRONG)
    assert (closed.closed, closed.nonce) == (True, STATE.nonce)
    assert closed.diagnosis
    assert not conclude(state, NOW, info(STATE.nonce + 9), WRONG).closed


def test_the_last_floor_that_leaves_a_nonce() -> None:
    """One below the greatest nonce is followed still."""
    state = conclude(STATE, NOW, info(MAX_NONCE - 1), WRONG)
    assert (state.closed, state.nonce) == (False, MAX_NONCE - 1)


def test_a_closed_key_keeps_why() -> None:
    """An answer that raises nothing neither opens a key that was closed meanwhile nor says otherwise."""
    closed = STATE._replace(closed=True, diagnosis="refused")
    assert conclude(closed, NOW, info(), RIGHT) == closed
    assert conclude(closed, NOW, info(), WRONG) == closed


def test_a_floor_that_is_followed_opens() -> None:
    """A mark that moved opens a key that was closed meanwhile, since the refusals have their cause."""
    closed = STATE._replace(closed=True, diagnosis="refused", refusals=3)
    state = conclude(closed, NOW, info(ASKED + 1), WRONG[:1])
    assert (state.closed, state.refusals) == (False, 0)
    assert state.diagnosis == "too high (stop it)"
