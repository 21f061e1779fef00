"""What `doctor` finds of the lock of a store, and of who holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persistent_nonce.commands import doctor
from tests.support import examined
from tests.support.examined import wrong

database = examined.database


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.05)


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Hold the store's lock, as another program would."""
    descriptor = os.open(f"{database}.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_a_lock_that_is_not_given_back(database: Path) -> None:
    """Who holds the lock for long is named, with the state of its process."""
    with held(database):
        (found,) = wrong(database)
    assert found.startswith("lock: held for more than 0.05 s by process ")
    assert f"by process {os.getpid()} (running)" in found
    assert wrong(database) == []


def test_a_stopped_holder_can_be_continued(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stopped process it is said how to let it go on."""
    monkeypatch.setattr(doctor, "process_state", lambda pid: "stopped")
    with held(database):
        (found,) = wrong(database)
    assert f"(stopped) -> let it go on (kill -CONT {os.getpid()}), or end it" in found


def test_a_holder_out_of_sight(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows no locks of other containers; then it is said to look there."""
    monkeypatch.setattr(doctor, "_holder", lambda file: None)
    with held(database):
        (found,) = wrong(database)
    assert "in the other containers" in found


def test_a_lock_of_the_moment_is_waited_out(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is given back within the patience is no finding."""
    tries = []
    flock = fcntl.flock

    def busy(descriptor: int, operation: int) -> None:
        tries.append(operation)
        if len(tries) < 3:
            raise BlockingIOError
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", busy)
    monkeypatch.setattr(doctor, "_PATIENCE", 10.0)
    assert wrong(database) == []
    assert tries == [fcntl.LOCK_SH | fcntl.LOCK_NB] * 3


def test_without_a_lock_file(database: Path) -> None:
    """A missing lock file is made by the next program, not here."""
    Path(f"{database}.lock").unlink()
    assert wrong(database) == []
    assert not Path(f"{database}.lock").exists()
