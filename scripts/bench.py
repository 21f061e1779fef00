#!/usr/bin/env python3
"""Compare this library with what people use instead, in the same run and side by side.

The figures are of this machine as it is now, and no test reads them. What is compared takes turns in rounds, so that a
busy machine slows all of it alike: read the ratios. A median is that of the rounds' means, p95 and p99 are of single
operations, timed one by one.

    python -m pip install --group bench && python scripts/bench.py [SECTION ...] [--quick] [--json] [--plot FILE]

With --json the report is one object:

    environment   what the figures depend on
    sections      of each section asked for: `about`, `seconds` that it took, and `rows`
    rows          of each row `what` was measured, `median`, `unit`, `p95`, `p99`, the `ratio` to what it stands
                  `beside`, its `goal`, whether that was `met`, and a `note`; what does not apply is null or empty
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _bench_environment import environment
from _bench_fairness import fairness
from _bench_gate import passages
from _bench_growth import growth
from _bench_nonces import one_thread, threads
from _bench_plot import plot
from _bench_processes import alternation, processes, slow_drawer
from _bench_startup import start_up
from _bench_table import QUICK, Row, Size
from _contention import faults, waiting

#: What is measured, in the order of the page on performance.
SECTIONS: Final[dict[str, Callable[[Path, Size], list[Row]]]] = {
    "nonces": one_thread,
    "threads": threads,
    "processes": processes,
    "alternation": alternation,
    "slow-drawer": slow_drawer,
    "gate": passages,
    "fairness": fairness,
    "waiting": waiting,
    "faults": faults,
    "growth": growth,
    "start-up": start_up,
}

#: Of what a plot is made.
_PLOTTED: Final = "nonces"


def main(arguments: Sequence[str] | None = None, *, size: Size | None = None) -> None:
    """Run the sections asked for, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--plot", metavar="FILE", help=f"draw {_PLOTTED} as SVG")
    parser.add_argument("--directory", default=None, help="where to make the files")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.sections) - SECTIONS.keys():
        parser.error(f"no section {', '.join(sorted(unknown))}: {', '.join(SECTIONS)}")
    names = asked.sections or list(SECTIONS)
    if asked.plot and _PLOTTED not in names:
        parser.error(f"--plot draws the section {_PLOTTED}")
    size = size or (QUICK if asked.quick else Size())
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=asked.directory) as directory:
        report["environment"] = environment(Path(directory))
        if not asked.json:
            show_environment(report["environment"])
        report["sections"] = {}
        for name in names:
            place = Path(directory, name)
            place.mkdir()
            begin = time.monotonic()
            rows = SECTIONS[name](place, size)
            report["sections"][name] = {
                "about": SECTIONS[name].__doc__,
                "seconds": round(time.monotonic() - begin, 1),
                "rows": [row.told() for row in rows],
            }
            if asked.plot and name == _PLOTTED:
                plot(Path(asked.plot), "Nonces a second on one thread", rows)
            if not asked.json:
                show(name, rows, report["sections"][name])
    if asked.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))


def show_environment(found: dict[str, Any]) -> None:
    """Print what the figures depend on."""
    for what, value in found.items():
        print(f"{what:<22} {value}", flush=True)


def show(name: str, rows: list[Row], told: dict[str, Any]) -> None:
    """Print a section as a table, which a page in Markdown can take as it is."""
    print(f"\n## {name} ({told['seconds']} s)\n\n{told['about']}\n")
    print(
        "| what | median | p95 | p99 | ratio | to | goal |\n|---|--:|--:|--:|--:|---|---|"
    )
    for row in rows:
        figures = [number(value) for value in (row.median, row.p95, row.p99)]
        figures[0] += f" {row.unit}" if row.unit and figures[0] else ""
        what = f"{row.what} ({row.note})" if row.note else row.what
        met = {True: ": met", False: ": MISSED", None: ""}[row.met]
        cells = [what, *figures, number(row.ratio), row.beside, row.goal + met]
        print("|", " | ".join(cells), "|", flush=True)


def number(value: float | None) -> str:
    """Return a number with as many digits as mean something."""
    if value is None:
        return ""
    if abs(value) >= 1000:  # noqa: PLR2004 - beyond it, what follows the point is noise
        return f"{value:,.0f}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
