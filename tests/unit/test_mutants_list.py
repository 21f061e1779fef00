"""The list of seeded faults fits the package as it is."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Final

import pytest

from scripts._mutants import ROOT, Mutant, mutants

MUTANTS: Final = mutants()

#: How many there are at least.
LEAST: Final = 30


def _fault_of(mutant: Mutant) -> str:
    """Return why a mutant cannot be applied, "" if it can."""
    before = mutant.source(ROOT).read_text("utf-8")
    try:
        after = mutant.applied(before)
        same = ast.dump(ast.parse(after)) == ast.dump(ast.parse(before))
    except (ValueError, SyntaxError) as error:
        return str(error)
    return f"{mutant.id} changes nothing" if same else ""


def test_each_fault_can_be_applied() -> None:
    """The text of each fault stands exactly once where it is looked for, and what comes of it is Python (I1 to I11)."""
    assert [*filter(None, map(_fault_of, MUTANTS))] == []


def test_each_fault_is_described() -> None:
    """Each fault says what it breaks, and which tests, that exist, should notice."""
    for mutant in MUTANTS:
        assert mutant.breaks.partition(": ")[2], mutant.id
        files = [ROOT / "tests" / name for name in mutant.tests]
        assert files, mutant.id
        assert [file for file in files if not file.is_file()] == [], mutant.id


def test_the_list_is_long_and_has_nothing_twice() -> None:
    """There are enough faults, each with a name and an effect of its own."""
    assert len(MUTANTS) >= LEAST
    for what in ("id", "breaks"):
        times = Counter(getattr(mutant, what) for mutant in MUTANTS)
        assert max(times.values()) == 1
    changes = Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS)
    assert max(changes.values()) == 1


@pytest.mark.parametrize("old", ["is not there", "a"])
def test_a_fault_whose_text_is_gone_or_ambiguous_is_an_error(old: str) -> None:
    """A fault that cannot be applied is told, and not counted as caught."""
    mutant = Mutant(
        "id", "rules.py", old, "b", "I1: breaks", ("unit/test_rules_ends.py",)
    )
    with pytest.raises(ValueError, match="times in"):
        mutant.applied("a text with a letter that stands in it often")
