"""How often a fault is injected: a few times in each run, as often as docs/reliability.md says in the deep profile.

The figures that were seen are logged: `pytest --log-cli-level=INFO` shows them.
"""

from __future__ import annotations

import logging
import os
from typing import Final

__all__ = ["DEEP", "LONG", "figure", "times"]

_LOG: Final = logging.getLogger("tests.figures")

#: Whether this run is to take its time.
DEEP: Final = os.environ.get("HYPOTHESIS_PROFILE") == "deep"

#: Seconds that a test may take whose deep run takes minutes: a guard.
LONG: Final = 1_800


def times(few: int, deep: int) -> int:
    """Return `deep` in the deep profile, else `few`."""
    return deep if DEEP else few


def figure(what: str, value: object) -> None:
    """Log a figure that was seen."""
    _LOG.info("%s: %s", what, value)
