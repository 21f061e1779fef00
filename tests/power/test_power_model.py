"""Thousands of simulated histories of issuing, in which the algorithm holds and every wrong one is caught (A8)."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import settings

from tests.support.power_model import LEASES, MUTANTS, Variant, play

DEEP: Final = settings.get_current_profile_name() == "deep"

#: Histories of a variant, the same ones on each run; a deep run counts in how many of them a mutant is caught.
HISTORIES: Final = 20_000

pytestmark = pytest.mark.timeout(600)  # a guard; it takes seconds


def test_no_history_of_the_algorithm_as_built_breaks_a_promise() -> None:
    """No nonce repeats or falls back over kills, power cuts and clock steps (I1, I2, I4; A8)."""
    found = {
        seed: broken for seed in range(HISTORIES) if (broken := play("as built", seed))
    }
    assert not found


@pytest.mark.parametrize("variant", [*MUTANTS, *LEASES])
def test_a_wrong_algorithm_is_caught_in_these_histories(variant: Variant) -> None:
    """Each way to get it wrong, the two-field ceiling among them, breaks a promise in some history (I4; A8)."""
    caught = (seed for seed in range(HISTORIES) if play(variant, seed))
    first = next(caught, None)
    assert first is not None
    if DEEP:
        number = 1 + sum(1 for _ in caught)
        print(f"{variant}: {number} of {HISTORIES} histories, first {first}")  # noqa: T201 - the figures of a deep run
