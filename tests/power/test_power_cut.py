"""Real power cuts of a real file system, a few of each kind; scripts/power_cut.py makes hundreds (A5, A7)."""

from __future__ import annotations

from typing import Final

import pytest

from tests.support.power_disk import missing
from tests.support.power_kinds import KINDS, cut_power
from tests.support.power_trial import Figures
from tests.support.processes import Children

LACK: Final = missing()

pytestmark = [
    pytest.mark.skipif(bool(LACK), reason=f"NOT RUN: {LACK}"),
    pytest.mark.timeout(600),  # a guard; it takes seconds
]


def cut_in_a_child(kind: str, cuts: int) -> Figures:
    """Cut the power in a process of its own."""
    with Children() as children:
        count, broken = children.call(cut_power, kind, cuts).result()
    figures = Figures(broken=broken)
    figures.count.update(count)
    return figures


@pytest.mark.parametrize(
    ("kind", "cuts"), [("ceiling", 3), ("new", 3), ("kills", 2), ("recovery", 2)]
)
def test_nothing_promised_before_a_power_cut_is_lost_in_it(
    kind: str, cuts: int
) -> None:
    """Every nonce after a cut is above all nonces, floors, jumps and units promised before it (I1, I2, I4; A5, A7)."""
    figures = cut_in_a_child(kind, cuts)
    assert not figures.broken
    assert not figures.count["cuts that LOST"]
    assert not figures.count["corrupt"]
    assert figures.count["cuts"] == cuts
    assert figures.count["promises"]


@pytest.mark.parametrize("kind", ["unsynced", "fdatasync"])
def test_a_cut_takes_what_was_not_flushed_and_nothing_else(kind: str) -> None:
    """A counter that is never flushed loses numbers in these cuts, one that is flushed each time loses none (A5)."""
    assert KINDS[kind].held(cut_in_a_child(kind, 3))
