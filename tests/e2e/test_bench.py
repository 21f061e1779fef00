"""scripts/bench.py: every section runs, in the smallest size, and reports in the form that is documented.

No test here judges a time.
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest

ROOT: Final = Path(__file__).parents[2]
SCRIPTS: Final = ROOT / "scripts"
PAGE: Final = (ROOT / "docs" / "performance.md").read_text("utf-8")

#: The smallest size: enough to go through all that is measured.
SIZE: Final = """Size(
    rounds=1, turn=0.001, burst=50, singles=2, pauses=1, settle=0.0, draws=20, crowd=0.5, hammers=3, hammering=0.1,
    exchanges=2, drawing=0.1, calling=0.1, processes=(1, 2), tasks=5, keyed=3, keys=(1, 3), many=100,
    patience=30.0, starts=1,
)"""

#: Runs the script in that size.
RUN: Final = f"""
import sys
sys.path.insert(0, sys.argv[1])
import bench
from _bench_table import Size
bench.main(sys.argv[2:], size={SIZE})
"""

SECTIONS: Final = (
    "nonces",
    "threads",
    "processes",
    "alternation",
    "slow-drawer",
    "gate",
    "fairness",
    "waiting",
    "faults",
    "growth",
    "start-up",
)

#: What a row has, as the script's own text says.
KEYS: Final[dict[str, Any]] = {
    "what": str,
    "median": float | None,
    "unit": str,
    "p95": float | None,
    "p99": float | None,
    "ratio": float | None,
    "beside": str,
    "goal": str,
    "met": bool | None,
    "note": str,
}


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script in the smallest size, and return how it ended."""
    command = [sys.executable, "-W", "error", "-c", RUN, str(SCRIPTS)]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.fixture(scope="module", params=SECTIONS)
def section(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """Run a section, and return its name and the report in JSON."""
    directory = tmp_path_factory.mktemp("bench")
    done = bench(request.param, "--json", "--directory", directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(directory.iterdir()) == []
    return request.param, json.loads(done.stdout)


def test_each_section_reports(section: tuple[str, dict[str, Any]]) -> None:
    """A section that is asked for runs alone, leaves no file, and reports rows with the documented keys."""
    name, report = section
    assert list(report) == ["environment", "sections"]
    assert {"cpus", "load", "python", "sqlite", "file system", "kernel"} <= set(
        report["environment"]
    )
    assert list(report["sections"]) == [name]
    told = report["sections"][name]
    assert list(told) == ["about", "seconds", "rows"]
    assert told["about"].endswith(".")
    assert len({row["what"] for row in told["rows"]}) == len(told["rows"]) > 1
    for row in told["rows"]:
        assert row.keys() == KEYS.keys()
        for key, kind in KEYS.items():
            assert isinstance(row[key], kind), (key, row)
        assert row["median"] is not None or row["note"].startswith("not found: ")
        assert (row["met"] is not None) == bool(row["goal"])
        assert (row["ratio"] is not None) <= bool(row["beside"])


def test_the_sections_are_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sections that are tested here are those that the script has."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = runpy.run_path(str(SCRIPTS / "bench.py"))
    assert tuple(script["SECTIONS"]) == SECTIONS


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_has_each_section(name: str) -> None:
    """The page on performance has a section's table at its mark, in the form in which the script prints it."""
    before, _, after = PAGE.partition(f"\n<!-- {name} -->\n\n")
    assert re.search(rf"`bench\.py [a-z -]*\b{name}\b", before)
    lines = after.partition("\n\n")[0].splitlines()
    assert lines[0] == "| what | median | p95 | p99 | ratio | to | goal |"
    assert {line.count("|") for line in lines} == {8}
    assert len(lines) > 3


def test_table_and_plot(tmp_path: Path) -> None:
    """Without --json a section is a table; --plot writes well-formed SVG with a bar for each cost that was measured."""
    drawn = tmp_path / "nonces.svg"
    done = bench("nonces", "--plot", drawn)
    assert (done.returncode, done.stderr) == (0, "")
    table = done.stdout.partition("| what |")[2].splitlines()[2:]
    assert {line.count("|") for line in table} == {8}
    measured = [line.split("|")[1] for line in table if "not found" not in line]
    root = ElementTree.fromstring(drawn.read_text("utf-8"))  # noqa: S314 - what was just written here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    bars = [e for e in root.iter() if e.get("class") in ("ours", "theirs")]
    assert len(bars) == len(measured)
    assert all(float(bar.get("width", "-1")) >= 0 for bar in bars)
    names = {element.text for element in root.iter() if element.text}
    assert {name.strip() for name in measured} <= names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["speed"], "no section speed"), (["faults", "--plot", "x"], "--plot draws")],
)
def test_wrong_arguments(arguments: list[str], said: str) -> None:
    """A section that does not exist, and a plot of what is not measured, are refused."""
    done = bench(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
