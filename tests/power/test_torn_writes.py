"""Power cuts at each write and sync of SQLite: what was not synced is lost, kept or torn, at random (A6).

The library runs over a recorded disk, from an empty directory on. For each place in the record a disk is made as a cut
there may leave it, and the library has to go on from that by a clock that is an hour behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from persistent_nonce.state import KeyState
from persistent_nonce.stores import opening
from persistent_nonce.stores.writer import Writer
from tests.support.power_workload import Cuts, begin, take_over, work

DEEP: Final = settings.get_current_profile_name() == "deep"

#: How often the power is cut at each place.
ROUNDS: Final = 6 if DEEP else 1

#: A control need not be cut everywhere to lose.
STRIDE: Final = 1 if DEEP else 10

#: Writes and syncs of the program that dies; each of them is its last in turn.
DEATHS: Final = 40

pytestmark = pytest.mark.timeout(900)  # a guard for a deep run; else seconds


@pytest.fixture(scope="module", autouse=True)
def checkpoints() -> Iterator[None]:
    """Have SQLite write its log back several times in a short work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_CHECKPOINT", 8)
        yield


def cut_everywhere(
    directory: Path, *, stride: int = 1, boot: str | None = "first boot"
) -> Cuts:
    """Work, cut the power at each `stride`-th place, every second time again during the recovery, and go on."""
    place, scratch = directory / "work", directory / "recovered"
    place.mkdir(mode=0o700)
    scratch.mkdir(mode=0o700)
    trace = work(place, boot=boot)
    cuts = Cuts(scratch, boots=boot is not None)
    for seed in range(ROUNDS):
        for number, cut in enumerate(trace.cuts[::stride]):
            cuts.cut(trace, cut, seed, again=(number + seed) % 2 == 1)
    report(cuts)
    return cuts


def report(cuts: Cuts) -> None:
    """Print what was seen, in a deep run."""
    if DEEP:
        print(dict(cuts.count))  # noqa: T201 - the figures of a deep run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cuts:
    """Cut the power of the library as it is, at every place."""
    return cut_everywhere(tmp_path_factory.mktemp("power"))


def check(cuts: Cuts) -> None:
    """Fail if a promise was taken back or a database damaged."""
    count = cuts.count
    bad = count["lost"] + count["corrupt"] + count["unopened"]
    assert not bad, cuts.broken


def test_no_torn_or_dropped_write_takes_back_a_promise(made: Cuts) -> None:
    """After a cut at any write the database is sound and goes on above all it promised (I1, I2, I4; A6, A7)."""
    check(made)
    assert made.count["runs"] > 200 * ROUNDS
    assert made.count["cut again"] > 50 * ROUNDS


def test_a_clock_that_is_behind_after_a_cut_stops_nobody(made: Cuts) -> None:
    """The bound outlasts a cut with the ceiling, so that nonces go on at once by a clock set back (I4, I10; A6)."""
    assert not made.count["refused"], made.broken


def test_promises_outlast_a_cut_where_no_boot_has_a_name(tmp_path: Path) -> None:
    """Where the system names no boot, the first to open the store after a cut goes on above all as well (I4; A6)."""
    check(cut_everywhere(tmp_path, stride=4, boot=None))


def test_a_ceiling_that_a_killed_process_left_unsynced_is_not_trusted(
    tmp_path: Path,
) -> None:
    """Who goes on after a kill between write and fsync loses nothing to a cut soon after (I3, I4; A6, A7, A36)."""
    template, scratch = tmp_path / "template", tmp_path / "recovered"
    template.mkdir(mode=0o700)
    scratch.mkdir(mode=0o700)
    begin(template)
    cuts = Cuts(scratch)
    for kill in range(DEATHS):
        directory = tmp_path / f"{kill}"
        shutil.copytree(template, directory)
        trace, places = take_over(directory, kill)
        for seed in range(4 * ROUNDS):
            cuts.cut(trace, places[-1], seed)
    report(cuts)
    check(cuts)


def without_ceiling(self: Writer, before: KeyState, after: KeyState, top: int) -> bool:
    """Stand for Writer._above: no nonce needs a ceiling."""
    return False


def without_fsync(self: Writer, full: bool) -> None:
    """Stand for Writer._set_full: no commit waits for the disk."""
    self._execute("PRAGMA synchronous = NORMAL").fetchall()
    self._full = full


@pytest.mark.parametrize(
    ("method", "stand_in"),
    [("_above", without_ceiling), ("_set_full", without_fsync)],
)
def test_handing_out_before_the_disk_has_it_loses_promises(
    method: str, stand_in: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the ceiling, or without its fsync, these cuts do take promises back: they can be seen to (I4; A6)."""
    monkeypatch.setattr(Writer, method, stand_in)
    assert cut_everywhere(tmp_path, stride=STRIDE).count["lost"]
