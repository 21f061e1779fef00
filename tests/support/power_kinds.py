"""The kinds of power cuts that are tried, and what each must show."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.power_disk import Disk, enter_private_mounts
from tests.support.power_programs import (
    FDATASYNC,
    LIBRARY,
    NORMAL,
    UNSYNCED,
    Program,
)
from tests.support.power_trial import Figures, Plan, Trial

__all__ = ["KINDS", "Kind", "cut_power", "run"]


class Kind(NamedTuple):
    """A kind of trial: what it shows, what runs, how that is treated, and the least share of cuts that must lose."""

    shows: str
    program: Program
    plan: Plan
    must_lose: float = 0.0

    def held(self, figures: Figures) -> bool:
        """Return whether all was as it must be."""
        count = figures.count
        if self.must_lose:
            return count["cuts that LOST"] >= self.must_lose * count["cuts"]
        return not (figures.broken or count["corrupt"] or count["keys refused"])


KINDS: Final[dict[str, Kind]] = {
    "ceiling": Kind("four processes on one database (A5)", LIBRARY, Plan()),
    "new": Kind(
        "a new database for each cut (A5)",
        LIBRARY,
        Plan(least=0.0, most=0.1, anew=True),
    ),
    "kills": Kind("four writers killed before each cut (A7)", LIBRARY, Plan(kills=4)),
    "recovery": Kind(
        "three recoveries killed or cut after each cut (A7)",
        LIBRARY,
        Plan(recoveries=3),
    ),
    "normal": Kind(
        "control: NORMAL without a ceiling must lose in a fifth of the cuts",
        NORMAL,
        Plan(),
        must_lose=0.2,
    ),
    "unsynced": Kind(
        "control: a file that is never flushed must lose in half of the cuts",
        UNSYNCED,
        Plan(),
        must_lose=0.5,
    ),
    "fdatasync": Kind("control: fdatasync must lose nothing", FDATASYNC, Plan()),
}


def run(name: str, *, cuts: int, seed: int, file_system: str = "ext4") -> Figures:
    """Cut the power `cuts` times, in mounts of this process's own, which it keeps."""
    kind = KINDS[name]
    enter_private_mounts()
    with (
        tempfile.TemporaryDirectory(prefix="power-") as made,
        Disk(Path(made), file_system) as disk,
    ):
        trial = Trial(kind.program, kind.plan, disk, Path(made) / "logs", seed=seed)
        for _ in range(cuts):
            trial.cut()
    return trial.figures


def cut_power(name: str, cuts: int) -> tuple[dict[str, int], list[str]]:
    """Run a trial as a child process of a test, whose mounts and loop device end with it, whatever happens."""
    figures = run(name, cuts=cuts, seed=1)
    return dict(figures.count), figures.broken
