"""Disks that are full, read-only or failing, and limits of a process: an error says so, and no nonce is lower."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.process.test_place_real_mounts import MOUNTS
from tests.support import databases
from tests.support.disk_mounts import (
    fail_the_disk,
    fill_and_free,
    open_on_full,
    open_on_read_only,
    outgrow_a_limit,
    recover_on_full,
    run_out_of_descriptors,
)
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.power_disk import missing
from tests.support.processes import Children

pytestmark = pytest.mark.timeout(LONG)

path, children = databases.path, databases.children

FULL: Final = "StoreUnavailableError: the disk is full: "
BROKEN: Final = "StoreUnavailableError: the disk reports an input/output error: "


@MOUNTS
@pytest.mark.parametrize("kib", [256, 512])
def test_full_disk(children: Children, tmp_path: Path, kib: int) -> None:
    """On a disk that is filled and freed no nonce is lower, reading goes on, and so does all by itself (I2, I9; A9)."""
    cycles = times(10, 200)
    seen = children.call(fill_and_free, tmp_path, cycles, kib).result()
    figure(f"disk of {kib} KiB", seen)
    assert seen["said"], "it was never full"
    for message in seen["said"]:
        assert message.startswith(f"{FULL}{tmp_path}"), seen["said"]
        assert "no nonce was issued (free some space" in message
    assert seen["doctor"] == cycles  # each time


@MOUNTS
def test_opening_on_a_full_disk(children: Children, tmp_path: Path) -> None:
    """Who opens a database on a full disk is refused; when it is free nothing has to be repaired (I9; fault A9)."""
    new, closed, doctor, after = children.call(open_on_full, tmp_path, 256).result()
    assert [message.startswith(FULL) for message in new] == [True]
    assert [message.startswith(FULL) for message in closed] == [True]
    assert "the disk is full; " in doctor[0]
    assert doctor[0].endswith(" -> free some space")
    assert after == []


@MOUNTS
def test_recover_on_a_full_disk(children: Children, tmp_path: Path) -> None:
    """Wherever the disk is full while recover rebuilds, all is left as it was, with nothing beside it (I9; A9)."""
    said = children.call(recover_on_full, tmp_path, 256).result()
    figure("rebuilds that found no room", len(said))
    assert len(said) > 5
    for message in said:
        assert message.startswith("StoreUnavailableError: ")
        assert "the disk is full" in message or message.startswith(BROKEN)


@MOUNTS
def test_disk_mounted_read_only(children: Children, tmp_path: Path) -> None:
    """On a read-only disk nobody takes a nonce, everybody can look, and no file is left behind (I9; fault A10)."""
    said, doctor, after = children.call(open_on_read_only, tmp_path).result()
    for message in (*said, *doctor):
        assert "read-only file system" in message
        assert str(tmp_path) in message
        assert "mount it read-write" in message
    assert (len(said), len(doctor), after) == (1, 1, [])


def test_disk_that_fails_under_a_database_in_use(
    children: Children, tmp_path: Path
) -> None:
    """A disk that the kernel makes read-only after an error stops all; what it lost is made up for (I4, I9; A10)."""
    if lacking := missing():
        pytest.skip(f"NOT RUN: {lacking}")
    used, opened = children.call(fail_the_disk, tmp_path).result()
    assert len(used) == 6  # every attempt of both keys
    for message in used:
        assert message.startswith(f"{BROKEN}{tmp_path}")
    assert "read-only file system" in opened[0]


def test_quota(children: Children, path: Path) -> None:
    """Where no file may grow further nothing is issued, or above all; it goes on when it may (I2, I9; fault A9)."""
    said = children.call(outgrow_a_limit, path, 64).result()
    assert said, "the limit was never reached"
    for message in said:
        assert message.startswith((f"{FULL}{path}", f"{BROKEN}{path}"))


def test_no_descriptor_left(children: Children, path: Path) -> None:
    """With too few descriptors opening fails and says so; who has it open goes on without one (I9; fault A10)."""
    said = children.call(run_out_of_descriptors, path).result()
    refused = [message for messages in said for message in messages]
    assert len(refused) > 3
    for message in refused:
        assert message.startswith("StoreUnavailableError: ")
        assert "file descriptor" in message or "Too many open files" in message
    assert said[-1] == []
