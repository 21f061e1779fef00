"""The page about reliability names a test for each fault, and only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")

ROWS = re.findall(r"^\| (A\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)

NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")

#: By hand: a soak.
SOAKS = {"A33"}


def test_each_fault_has_its_row() -> None:
    """The faults A1 to A38 stand in the table, in order (A27 was never given out)."""
    numbers = [int(fault[1:]) for fault, *_ in ROWS]
    assert numbers == [number for number in range(1, 39) if number != 27]


@pytest.mark.parametrize(("fault", "tests"), [(row[0], row[2]) for row in ROWS])
def test_each_fault_has_a_test(fault: str, tests: str) -> None:
    """A fault has a test, or is a soak that is run by hand."""
    assert NAMED.search(tests) or fault in SOAKS


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE))))
def test_each_test_that_is_named_exists(file: str, name: str) -> None:
    """A test is where the page says."""
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
