"""Processes whose whole clock is another one, as libfaketime makes it: nonces rise over all of them (fault A22)."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from tests.support.processes import Children
from tests.support.workers import next_by

#: Where distributions put libfaketime, which moves the clock of a whole process; and where a variable says it is.
FOUND: Final = [
    path
    for path in (
        Path(os.environ.get("LIBFAKETIME", "/nowhere")),
        *sorted(Path("/usr").glob("lib*/**/faketime/libfaketime.so.1")),
    )
    if path.is_file()
]

#: What each process in turn takes for the time.
CLOCKS: Final = (
    "+0", "-3600s", "-7200s", "+864000s", "+0", "@1970-01-02 00:00:00", "@1969-12-30 00:00:00", "@2200-01-01 00:00:00",
    "-1s", "+3600s", "@2037-01-01 00:00:00", "+0",
)  # fmt: skip


@pytest.mark.skipif(
    not FOUND, reason="NOT RUN: libfaketime is not installed, nor named by LIBFAKETIME"
)
def test_processes_by_clocks_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 12 processes draws above all before it, whatever its clock shows, in this boot (I1, I2, I4)."""
    path, drawn = tmp_path / "nonces.db", list[int]()
    for clock in CLOCKS:
        with monkeypatch.context() as patch, Children() as children:
            patch.setenv("LD_PRELOAD", str(FOUND[0]))
            patch.setenv("FAKETIME", clock)
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            patch.setenv("DONT_FAKE_MONOTONIC", "1")
            patch.setenv("TZ", "UTC")
            drawn += [children.call(next_by, path, 0.0).result() for _ in "ab"]
    assert all(one < other for one, other in pairwise(drawn))
    jumps = [other - one for one, other in pairwise(drawn) if other - one > 1]
    assert len(jumps) >= 3  # the clocks did differ, as ten days and two centuries show
    assert max(jumps) > 150 * 365 * 86_400_000
