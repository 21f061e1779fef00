"""The arithmetic of the benchmarks: goals, percentiles, turns, bars."""

from __future__ import annotations

import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

SCRIPTS: Final = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of rows and turns."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("_bench_table")


@pytest.mark.parametrize(
    ("median", "ratio", "goal", "met"),
    [
        (1.0, None, "", None),
        (None, None, "≥ 1.5", None),
        (9.0, 1.5, "≥ 1.5", True),
        (9.0, 1.49, "≥ 1.5", False),
        (8.0, None, "≤ 8", True),
        (8.1, None, "≤ 8", False),
    ],
)
def test_goal(
    table: Any, median: float | None, ratio: float | None, goal: str, met: bool | None
) -> None:
    """A goal is held against the ratio, without one against the median; limits are within it."""
    assert table.Row("x", median, ratio=ratio, goal=goal).met is met


@pytest.mark.parametrize(
    ("share", "found"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)]
)
def test_percentile(table: Any, share: float, found: int) -> None:
    """A percentile is one of the values, and no more than the rest of them are above it."""
    values = list(range(100, 0, -1))
    assert table.of(values, share) == found
    assert table.of([7], share) == 7
    assert table.of(range(10), share) == math.ceil(share * 10) - 1


def test_ratio_is_of_speeds(table: Any) -> None:
    """Who takes half as long is twice as fast, and the tail is that of single operations, in the row's unit."""
    fast, slow = table.Times([1e-6] * 3, [2e-6]), table.Times([2e-6, 1.0, 2e-6], [])
    row = fast.row("fast", beside="slow", other=slow)
    assert row.ratio == pytest.approx(2)
    assert (row.median, row.p95, row.unit) == (pytest.approx(1), pytest.approx(2), "µs")
    assert fast.row("fast", unit="ms").median == pytest.approx(1e-3)


def test_turns(table: Any) -> None:
    """All take the same number of turns, those of every other round backwards, and none does more than was asked."""
    size = table.Size(rounds=3, turn=math.inf, burst=250, singles=7)
    begun: list[str] = []
    done: list[str] = []

    def contestant(name: str) -> Any:
        begun.append(name)
        return lambda: done.append(name)

    times = table.in_turns(
        {name: lambda name=name: contestant(name) for name in "ab"}, size
    )
    assert "".join(begun) == "abbaab"
    assert [done.count(name) for name in "ab"] == [3 * (250 + 7)] * 2
    assert [len(found.means) for found in times.values()] == [3, 3]
    assert [len(found.singles) for found in times.values()] == [21, 21]


def test_turn_ends_in_time(table: Any) -> None:
    """A turn without an end of its own ends with its time, at the next look at the clock."""
    done, spent = table.turn(lambda: None, sys.maxsize, 0.0)
    assert (done, spent > 0) == (100, True)


def test_bars(table: Any, tmp_path: Path) -> None:
    """A bar is as long as the logarithm of its rate, the fastest first; what was not measured has none."""
    rows = [
        table.Row("slow & <old>", 1000.0),
        table.Row("next()", 10.0),
        table.Row("missing", None),
        table.Row("fast", 1.0),
    ]
    path = tmp_path / "plot.svg"
    import_module("_bench_plot").plot(path, "a < b", rows)
    root = ElementTree.fromstring(path.read_text("utf-8"))  # noqa: S314 - what was just written here
    bars = [e for e in root.iter() if e.get("class") in ("ours", "theirs")]
    assert [bar.get("class") for bar in bars] == ["theirs", "ours", "theirs"]
    widths = [float(bar.get("width", "")) for bar in bars]
    assert widths == pytest.approx([470, 470 * 2 / 3, 0], abs=0.1)
    texts = [element.text for element in root.iter() if element.text]
    assert texts.index("fast") < texts.index("next()") < texts.index("slow & <old>")
    assert "missing" not in texts
    assert {"1,000,000", "100,000", "1,000"} <= set(texts)
