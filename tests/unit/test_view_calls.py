"""What the commands print of calls, those in flight and in doubt among them, and of names that may be hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from persistent_nonce.clock import SECOND
from persistent_nonce.commands import facts, view
from persistent_nonce.records import in_doubt
from persistent_nonce.state import Outcome
from tests.support.shown import gone, printed, record, sleeping, used
from tests.support.states import HOLD, at, running


@given(st.text())
def test_clean_leaves_one_harmless_line(name: str) -> None:
    """Whatever a name holds, what is shown of it is printable and on one line."""
    shown = facts.clean(name)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1


def test_clean_keeps_what_is_harmless() -> None:
    """Letters of any script and signs are shown as they are."""
    assert facts.clean("Büro 7 – 取引 [x] 🚀") == "Büro 7 – 取引 [x] 🚀"


def test_the_table_of_calls() -> None:
    """A call has a line with time, label, method, cost, nonce, wait, duration, outcome and pid."""
    table = view.calls_table([record()], [used(label="main")], at())
    columns = printed(table).splitlines()[1].split()
    moment = ["2026-05-28", "20:26:40.000Z"]
    rest = ["main", "Balance", "1", "7", "0.250", "s", "0.125", "s", "ok", "5"]
    assert columns == moment + rest


@pytest.mark.parametrize("outcome", ["unknown", "interrupted"])
def test_calls_in_doubt_say_so(outcome: Outcome) -> None:
    """A call that may have been executed is marked."""
    assert "(in doubt)" in printed(view.calls_table([record(outcome)], [], at()))


@pytest.mark.parametrize("outcome", ["ok", "error", "invalid_nonce", "not_sent"])
def test_other_calls_are_in_no_doubt(outcome: Outcome) -> None:
    """A call of which the outcome is known is not marked."""
    assert "doubt" not in printed(view.calls_table([record(outcome)], [], at()))


def test_a_narrow_terminal_loses_no_digit() -> None:
    """Where a table does not fit, it is broken into more lines, not cut."""
    shown = printed(view.calls_table([record(nonce=1234567890123456789)], [], at()), 60)
    assert set("1234567890") <= set(shown)
    assert "…" not in shown


def test_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What goes into a pipe is not broken at 80 signs."""
    view.write(Text("x" * 300))
    assert capsys.readouterr().out == "x" * 300 + "\n"


# --- calls in flight, among the records


def test_a_call_in_flight_is_listed() -> None:
    """The call in flight stands among the others, although it has no record yet."""
    state = used(running=running("5-1-1-a:9", session="5-1-1-a", nonce=9))
    found = facts.recent([record()], [state], at(), sleeping)
    assert [call.outcome for call in found] == ["in_flight", "ok"]


def test_a_call_with_a_record_is_listed_once() -> None:
    """The call in flight is listed once, also where its record was written at its start."""
    state = used(running=running("5-1-1-a:7", session="5-1-1-a", nonce=7))
    found = facts.recent([record("in_flight")], [state], at(), sleeping)
    assert [call.id for call in found] == ["5-1-1-a:7"]


def test_a_dead_process_leaves_its_call_in_doubt() -> None:
    """The call of a dead process is in doubt at once, not only after the next call."""
    state = used(running=running("5-1-1-a:9", session="5-1-1-a"))
    (call,) = facts.recent([], [state], at(), gone)
    assert call.outcome == "interrupted"
    assert in_doubt(call)


def test_a_reboot_leaves_the_call_in_doubt() -> None:
    """So is a call that a reboot cut off."""
    state = used(running=running("5-1-1-a:9", session="5-1-1-a"), boot="boot-0")
    (call,) = facts.recent([], [state], at(), sleeping)
    assert call.outcome == "interrupted"


def test_a_call_past_its_time_is_in_doubt() -> None:
    """So is a call that the next one will overtake."""
    state = used(running=running("5-1-1-a:9", session="5-1-1-a"))
    later = at(HOLD / SECOND + 1)
    (call,) = facts.recent([], [state], later, sleeping)
    assert call.outcome == "unknown"
