"""What the commands print of keys, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.commands import view
from persistent_nonce.findings import Finding
from persistent_nonce.state import KeyState, Rate
from tests.support.shown import gone, printed, record, sleeping, used
from tests.support.states import KEY, WALL, at, fresh, running, waiting

PATH: Final = Path("/var/lib/bot/nonces.db")
ESC: Final = "\x1b[31m\u202e[bold]\x07"


@pytest.fixture(autouse=True)
def _processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "probe", lambda path: sleeping)


def text(*states: KeyState, after: float = 0.0) -> str:
    """Return what is shown of `states`."""
    return view.states_text(states, at(after), PATH).plain


def line(shown: str, name: str) -> str:
    """Return what stands behind `name`."""
    found = [row for row in shown.splitlines() if row.startswith(f"  {name} ")]
    assert len(found) == 1, shown
    return found[0][len(name) + 2 :].strip()


def test_the_first_line_is_the_path() -> None:
    """Two programs that share no nonce are told apart by the first line."""
    assert text(used()).splitlines()[0] == str(PATH)
    assert text().splitlines() == [str(PATH), "", "no key has been used yet"]


def test_an_idle_key() -> None:
    """An idle key shows its unit, its last nonce, how old that is, and that nothing goes on."""
    shown = text(used(label="main"), after=3.0)
    assert f"key {KEY}  main" in shown
    assert line(shown, "unit") == "ms"
    assert line(shown, "nonce") == str(WALL // 1_000_000)
    assert line(shown, "lead") == "3.0 s behind the clock"
    assert line(shown, "in flight") == "nothing"
    assert line(shown, "queue") == "empty"
    assert line(shown, "counter") == "none; calls 0.2 s apart"
    assert line(shown, "back-off") == "none"


def test_a_key_without_a_nonce() -> None:
    """A key that was set up but never used has no nonce and no lead."""
    shown = text(fresh())
    assert line(shown, "nonce") == "none yet"
    assert "lead" not in shown


def test_a_lead() -> None:
    """A mark ahead of the clock is said to be ahead, in a unit of people."""
    ahead = used(nonce=WALL // 1_000_000 + 600_000)
    assert line(text(ahead), "lead") == "10 min ahead of the clock"


def test_the_call_in_flight() -> None:
    """The call in flight is shown with method, process, its state, age and nonce."""
    state = used(running=running(session="4711-1-1-a", nonce=99))
    shown = line(text(state, after=1.5), "in flight")
    assert shown == "Balance of process 4711 (sleeping) for 1.5 s, nonce 99"


def test_a_call_past_its_time() -> None:
    """A call that has lasted too long is said to be overtaken next."""
    state = used(running=running(session="4711-1-1-a"))
    assert "past its time" in line(text(state, after=301), "in flight")


def test_the_call_of_a_dead_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call of a process that is gone may have been executed."""
    monkeypatch.setattr(view, "probe", lambda path: gone)
    state = used(running=running(session="4711-1-1-a"))
    assert "it may have been executed" in line(text(state), "in flight")


def test_another_boot() -> None:
    """After a reboot nothing waits, the call in flight was cut off and the counter counts as full."""
    state = used(
        boot="boot-0",
        running=running(session="4711-1-1-a"),
        queue=(waiting(session="12-1-1-a"),),
        every=SECOND,
        burst=14,
    )
    shown = text(state)
    assert "cut off by a reboot" in line(shown, "in flight")
    assert line(shown, "queue") == "empty"
    assert line(shown, "counter").startswith("14.0 of 14")


def test_the_queue_stands_in_the_order_of_turn() -> None:
    """The queue shows who is next first: by priority, then by ticket, passed over last."""
    queue = (
        waiting("a", session="1-1-1-a")._replace(ticket=1, late=True),
        waiting("b", session="2-1-1-a")._replace(ticket=2),
        waiting("c", session="3-1-1-a", priority=20)._replace(ticket=3),
    )
    shown = line(text(used(queue=queue), after=2.0), "queue")
    assert shown == (
        "3: Balance of process 3 (sleeping) for 2.0 s; Balance of process 2 (sleeping) for 2.0 s; "
        "Balance of process 1 (sleeping) for 2.0 s, passed over"
    )


def test_a_long_queue_is_cut() -> None:
    """Of many waiting calls the number is shown, and the first of them."""
    queue = tuple(
        waiting(str(n), session=f"{n}-1-1-a")._replace(ticket=n) for n in range(40)
    )
    shown = line(text(used(queue=queue)), "queue")
    assert shown.startswith("40: Balance of process 0 ")
    assert shown.endswith("; …")


def test_the_counter_drains() -> None:
    """The level of the call counter is what has not drained by now."""
    state = fresh("ms", rate=Rate(2.0, 14))._replace(tier="starter")
    state = state._replace(tat=at(6.0).mono)
    expected = "{} of 14 (starter, one drains in 2 s); calls 0.2 s apart"
    assert line(text(state), "counter") == expected.format("3.0")
    assert line(text(state, after=2.0), "counter") == expected.format("2.0")
    assert line(text(state, after=99.0), "counter") == expected.format("0.0")


def test_a_counter_is_never_more_than_full() -> None:
    """A counter that was made smaller shows as full, which is how the next call will take it."""
    state = fresh("ms", rate=Rate(2.0, 14))._replace(tat=at(1000.0).mono)
    assert line(text(state), "counter").startswith("14.0 of 14 ")


def test_a_counter_that_does_not_count() -> None:
    """The tier `none` is shown as no counter."""
    state = fresh("ms", rate=Rate(0.0, 1_000_000, "none"))
    assert line(text(state), "counter") == "none; calls 0.2 s apart"


def test_the_back_off() -> None:
    """A back-off is shown with what is left of it and why, and is gone when it has passed."""
    state = used(
        set_at=WALL, not_before=WALL + 30 * SECOND, reason="refused nonce 5", refusals=1
    )
    shown = text(state, after=10.0)
    assert line(shown, "back-off") == "20.0 s left: refused nonce 5"
    assert line(shown, "refusals") == "1 of 3 in a row"
    assert line(text(state, after=31.0), "back-off") == "none"


def test_a_back_off_after_a_step_of_the_clock() -> None:
    """A clock set back shows no longer back-off than was set (I8)."""
    later = WALL + 3600 * SECOND
    state = used(set_at=later, not_before=later + 30 * SECOND, reason="so")
    assert line(text(state), "back-off") == "30.0 s left: so"


def test_a_closed_key() -> None:
    """A closed key says so, with the diagnosis and what opens it."""
    shown = text(used(closed=True, refusals=3, diagnosis="another program"))
    assert "raise-floor, set-unit or reopen" in line(shown, "closed")
    assert line(shown, "diagnosis") == "another program"


def test_json_keeps_nonces_whole() -> None:
    """Nonces are strings in JSON: a reader with floats would make others of them."""
    state = fresh("ns")._replace(
        nonce=2**62 + 1, seen=2**62, running=running(nonce=2**62 + 1, session="1-1-1-a")
    )
    data = json.loads(json.dumps(view.states_data([state], at(), PATH)))
    assert data["keys"][0]["nonce"] == str(2**62 + 1)
    assert data["keys"][0]["in_flight"]["nonce"] == str(2**62 + 1)
    assert view.calls_data([record(nonce=2**62 + 1)], [])[0]["nonce"] == str(2**62 + 1)

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict):
            return [n for item in value.values() for n in numbers(item)]
        if isinstance(value, list):
            return [n for item in value for n in numbers(item)]
        return [value] if isinstance(value, int | float) else []

    assert all(abs(number) < 2**53 for number in numbers(data))


def test_text_and_json_say_the_same() -> None:
    """Whatever `show` prints of a key is in its JSON."""
    state = used(
        label="main", refusals=1, diagnosis="so", running=running(session="5-1-1-a")
    )
    data = view.states_data([state], at(), PATH)["keys"][0]
    shown = text(state)
    for value in (data["key"], data["label"], data["unit"], data["nonce"], "so"):
        assert value in shown


def test_a_terminal_is_told_nothing_by_a_name() -> None:
    """Control signs are shown as escapes, markup as itself, in keys, calls and findings."""
    state = used(
        label=ESC, reason=ESC, not_before=WALL * 2, set_at=WALL, closed=True,
        diagnosis=ESC, tier=ESC, every=SECOND, burst=2,
        running=running(session="5-1-1-a")._replace(method=ESC),
        queue=(waiting(session="6-1-1-a")._replace(method=ESC),),
    )  # fmt: skip
    call = record()._replace(method=ESC)
    outputs = [
        printed(view.states_text([state], at(), PATH)),
        printed(view.calls_table([call], [state], at())),
        printed(view.findings_text([Finding(ESC, wrong=True, said=ESC, do=ESC)])),
    ]
    for output in outputs:
        assert not {"\x1b", "\u202e", "\x07"} & set(output)
        assert r"\x1b[31m\u202e[bold]\x07" in output


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.04, "0.0 s"), (119.94, "119.9 s"), (120, "2 min"), (7199, "120 min"),
        (7200, "2 h"), (172_800, "2 d"), (-300, "-5 min"),
    ],
)  # fmt: skip
def test_lengths_of_time(value: float, shown: str) -> None:
    """A length of time is shown in the unit in which people say it."""
    assert view.seconds(value) == shown
