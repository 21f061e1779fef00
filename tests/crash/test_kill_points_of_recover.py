"""`recover` killed before and after each thing it does: no nonce is lower, and another one comes to the end (I3)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.support.doomed_recovery import SCENES, recovery_series
from tests.support.killing import profile
from tests.support.processes import Children

DEEP: Final = profile() == "deep"

#: Points of each kind that each scene has at least: one that vanishes has to be looked for.
LEAST: Final = {"replace": 4, "unlink": 10, "fsync": 10, "pwrite": 2}


@pytest.mark.timeout(3600 if DEEP else 600)
@pytest.mark.parametrize("scene", SCENES)
def test_recover_killed_at_each_point(tmp_path: Path, scene: str) -> None:
    """Wherever it is killed, programs are refused or go on above all, and the next recover too (I1 to I3; fault A7).

    Found by review: between the removal of the log and the new database, the old one went on without its log.
    """
    with Children() as children:
        found = children.call(recovery_series, scene, tmp_path, DEEP).result()
    assert found["wrong"] == []
    census = Counter(point.rsplit(" ", 1)[1] for point in found["points"])
    assert not {kind: census[kind] for kind in LEAST if census[kind] < LEAST[kind]}
