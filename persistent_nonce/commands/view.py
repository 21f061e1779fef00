"""What the commands print: keys and calls as text for people, or as data for JSON.

Whatever comes out of a store is shown as it is, sign by sign: as `Text`, which knows no markup, and with control
signs escaped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.commands.facts import call_facts, clean, key_facts
from persistent_nonce.state import CallRecord, KeyState
from persistent_nonce.stores.sessions import probe

if TYPE_CHECKING:
    from persistent_nonce.findings import Finding

__all__ = [
    "Look",
    "calls_data",
    "calls_table",
    "console",
    "findings_data",
    "findings_text",
    "live",
    "seconds",
    "states_data",
    "states_text",
    "write",
]

#: The width of what goes into a file or a pipe: enough for any table, so that no line is broken.
_WIDE: Final = 1000

#: Waiting calls that are shown one by one.
_SHOWN: Final = 5

_STYLES: Final = {
    "ok": "green",
    "in_flight": "cyan",
    "unknown": "yellow",
    "interrupted": "yellow",
    "invalid_nonce": "red",
    "error": "red",
}


def console() -> Console:
    """Return where to print: as wide as the terminal, or wide enough where there is none."""
    width = None if is_terminal() else _WIDE
    return Console(width=width, highlight=False, markup=False, emoji=False)


def is_terminal() -> bool:
    """Tell whether people look at what is printed; without any stdout nobody does."""
    return sys.stdout is not None and sys.stdout.isatty()


def write(what: RenderableType) -> None:
    """Print text, whose lines a terminal may wrap by itself, or a table, which fits its width."""
    console().print(what, soft_wrap=isinstance(what, Text))


def seconds(value: float) -> str:
    """Return a length of time as people read it."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(value) >= 2 * length:
            return f"{value / length:.0f} {unit}"
    return f"{value:.1f} s"


# --- keys -----------------------------------------------------------------------------


def states_data(states: Iterable[KeyState], now: Now, path: Path) -> dict[str, Any]:
    """Return what `show --json` prints."""
    ask = probe(path)
    return {
        "path": str(path),
        "keys": [key_facts(state, now, ask) for state in states],
    }


def states_text(states: Iterable[KeyState], now: Now, path: Path) -> Text:
    """Return what `show` prints: the database's path on the first line, then a paragraph for each key."""
    data = states_data(states, now, path)
    text = Text(clean(data["path"]))
    for facts in data["keys"]:
        text.append("\n\nkey ").append(facts["key"], "bold")
        if facts["label"]:
            text.append(f"  {clean(facts['label'])}", "bold")
        for name, value, style in _lines(facts):
            text.append(f"\n  {name:<10} ", "dim").append(clean(value), style)
    if not data["keys"]:
        text.append("\n\nno key has been used yet")
    return text


def _lines(facts: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield name, value and style of each line about a key."""
    yield "unit", facts["unit"], ""
    yield "nonce", facts["nonce"] or "none yet", ""
    if facts["nonce"]:
        lead = facts["lead"]
        side = "ahead of" if lead > 0 else "behind"
        style = "yellow" if lead > 1 else ""
        yield "lead", f"{seconds(abs(lead))} {side} the clock", style
    yield "in flight", *_in_flight(facts["in_flight"])
    yield "queue", _queue(facts["queue"]), ""
    yield "counter", _counter(facts), ""
    back_off = facts["back_off"]
    if back_off:
        left = f"{seconds(back_off['left'])} left"
        yield "back-off", f"{left}: {back_off['reason']}", "yellow"
    else:
        yield "back-off", "none", ""
    if facts["refusals"]:
        count = f"{facts['refusals']} of {facts['attempts']} in a row"
        yield "refusals", count, "yellow"
    if facts["closed"]:
        yield "closed", "no call is sent until raise-floor, set-unit or reopen", "red"
    if facts["diagnosis"]:
        yield "diagnosis", facts["diagnosis"], "red"


def _in_flight(call: dict[str, Any] | None) -> tuple[str, str]:
    if call is None:
        return "nothing", ""
    who = f"{call['method']} of process {call['pid']} ({call['process']})"
    if call["age"] is None:
        return f"{who}, cut off by a reboot: it may have been executed", "yellow"
    since = f"{who} for {seconds(call['age'])}, nonce {call['nonce']}"
    if call["process"] == "gone":
        return f"{since}: it may have been executed", "yellow"
    if call["overdue"]:
        return f"{since}: past its time, the next call overtakes it", "yellow"
    return since, "cyan"


def _queue(waiting: Sequence[dict[str, Any]]) -> str:
    if not waiting:
        return "empty"
    shown = [
        f"{call['method']} of process {call['pid']} ({call['process']}) "
        f"for {seconds(call['age'])}" + (", passed over" if call["passed_over"] else "")
        for call in waiting[:_SHOWN]
    ]
    more = len(waiting) - _SHOWN
    return f"{len(waiting)}: " + "; ".join(shown) + ("; …" if more > 0 else "")


def _counter(facts: dict[str, Any]) -> str:
    counter, interval = facts["counter"], f"calls {facts['interval']:g} s apart"
    if counter is None or not counter["every"]:
        return f"none; {interval}"
    tier = f"{counter['tier']}, " if counter["tier"] else ""
    return (
        f"{counter['level']:.1f} of {counter['burst']} ({tier}"
        f"one drains in {counter['every']:.3g} s); {interval}"
    )


# --- calls ----------------------------------------------------------------------------


def calls_data(
    calls: Iterable[CallRecord], states: Iterable[KeyState]
) -> list[dict[str, Any]]:
    """Return what `calls --json` prints; `states` are those of the keys, for their labels."""
    labels = {state.key: state.label for state in states}
    return [call_facts(call, labels) for call in calls]


def calls_table(
    calls: Sequence[CallRecord], states: Iterable[KeyState], now: Now
) -> Table:
    """Return what `calls` prints: a line for each call, newest first; those in flight tell how long they are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("started", "key", "method", "cost", "nonce", "waited", "took"):
        right = name in ("cost", "nonce", "waited", "took")
        justify: Any = "right" if right else "left"
        table.add_column(name, justify=justify, overflow="fold")
    table.add_column("outcome", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("pid", justify="right", overflow="fold")
    for call, facts in zip(calls, calls_data(calls, states), strict=True):
        took = facts["took"]
        if call.outcome == "in_flight":
            took = max(0, now.wall - call.at) / SECOND
        cells = (
            facts["at"].replace("T", " ").replace("+00:00", "Z"),
            facts["label"] or facts["key"],
            facts["method"],
            str(facts["cost"]),
            facts["nonce"],
            f"{facts['waited']:.3f} s",
            "" if took is None else f"{took:.3f} s",
            facts["outcome"].replace("_", " ")
            + (" (in doubt)" if facts["in_doubt"] else "")
            + (f": {facts['said']}" if facts["said"] else ""),
            facts["reference"],
            str(facts["pid"]),
        )
        style = _STYLES.get(call.outcome, "")
        table.add_row(*(Text(clean(cell), style) for cell in cells))
    return table


# --- live


class Look(NamedTuple):
    """What one look at a database found."""

    states: list[KeyState]
    calls: list[CallRecord]
    now: Now
    path: Path


def live(look: Callable[[], Look], interval: float, *, as_json: bool) -> None:
    """Show one look after the other, `interval` seconds apart, until interrupted."""
    while as_json:
        print(json.dumps(_look_data(look())), flush=True)  # noqa: T201 (its task)
        time.sleep(interval)
    while not is_terminal():  # where nothing can be overwritten, one below the other
        console().print(_look_text(look()), Text())
        time.sleep(interval)
    with Live(_look_text(look()), console=console(), auto_refresh=False) as shown:
        while True:
            time.sleep(interval)
            shown.update(_look_text(look()), refresh=True)


def _look_data(seen: Look) -> dict[str, Any]:
    data = states_data(seen.states, seen.now, seen.path)
    return {**data, "calls": calls_data(seen.calls, seen.states)}


def _look_text(seen: Look) -> RenderableType:
    text = states_text(seen.states, seen.now, seen.path)
    return Group(text, Text(), calls_table(seen.calls, seen.states, seen.now))


# --- findings


def findings_data(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Return what `doctor --json` prints."""
    return [finding._asdict() for finding in findings]


def findings_text(findings: Sequence[Finding]) -> Text:
    """Return what `doctor` prints: a line for each thing looked at, and below what is wrong, what to do."""
    text = Text()
    for finding in findings:
        mark, style = ("WRONG", "bold red") if finding.wrong else ("ok", "green")
        text.append(f"{mark:<5}  ", style).append(f"{clean(finding.about)}: ", "bold")
        text.append(clean(finding.said))
        if finding.do:
            text.append(f"\n       -> {clean(finding.do)}")
        text.append("\n")
    wrong = sum(finding.wrong for finding in findings)
    return text.append(f"{wrong} to be put right" if wrong else "nothing is wrong")
