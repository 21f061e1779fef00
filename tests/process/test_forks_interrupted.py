"""A child that is interrupted before it knows that it is one: CPython ends a hook of a fork, and says no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import databases
from tests.support.forking import forks_in

# These children are forked beside threads on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

path = databases.path


def test_an_interrupt_in_a_childs_first_moment(path: Path) -> None:
    """A child whose numbering was interrupted returns none of its parent's nonces, on any system (I1)."""
    assert forks_in("forking_interrupted.py", path) == 60
