"""The commands that look leave nothing behind, wait for nobody, and make no database."""

from __future__ import annotations

import fcntl
import shutil
import signal
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.state import fingerprint
from persistent_nonce.stores import place, reader
from tests.support import commands
from tests.support.commands import Runner, listing, run
from tests.support.processes import Children

#: What reads, takes no lock, and leaves no file behind.
READING: Final = ("show", "show --json", "calls", "calls --in-doubt", "doctor --json")

#: A program that has the store open and its lock, until it is told.
HOLDER: Final = """
import os, sys, fcntl
from persistent_nonce import NonceProvider, SQLiteStore

store = SQLiteStore(sys.argv[1])
NonceProvider(store, "held").next()
lock = os.open(sys.argv[1] + ".lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
os.close(lock)
"""

database, ran = commands.database, commands.ran


@pytest.mark.parametrize("command", READING)
def test_reading_a_closed_database_leaves_no_file(ran: Runner, command: str) -> None:
    """A reading command leaves the directory of a closed database as it was (no -wal, no -shm)."""
    before = listing(ran.database.parent)
    assert ran(*command.split()).code == 0
    assert listing(ran.database.parent) == before


def test_reading_beside_a_holder(ran: Runner) -> None:
    """While another process has the lock and is stopped, reading commands answer, and leave no file.

    They see what it has committed; `doctor` names it.
    """
    with Children() as children:
        child = children.script(HOLDER, ran.database)
        child.wait_for("held")
        child.kill(signal.SIGSTOP)
        try:
            before = listing(ran.database.parent)
            assert f"{ran.database.name}-wal" in dict(before)
            for command in READING:
                code, out, err = ran(*command.split())
                assert (code, err) == (1 if "doctor" in command else 0, "")
                assert fingerprint("held") in out or "calls" in command
            assert f"by process {child.pid} (stopped)" in ran("doctor").out
            assert listing(ran.database.parent) == before
        finally:
            child.kill(signal.SIGCONT)
        child.tell()
        assert child.end() == 0
    assert ran("doctor").code == 0


def test_reading_takes_no_write_lock(
    ran: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reading command asks for the exclusive lock, not even for a moment, or opens a store to write."""
    modes = []
    flock = fcntl.flock

    def watch(descriptor: int, mode: int) -> None:
        modes.append(mode)
        flock(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", watch)
    monkeypatch.setattr(SQLiteStore, "__init__", None)
    for command in READING:
        assert ran(*command.split()).code == 0
    assert set(modes) == {fcntl.LOCK_SH | fcntl.LOCK_NB}


def test_reading_a_copy_without_its_shm(
    ran: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy with a -wal but no -shm is not completed behind its owner's back; that is an error."""
    monkeypatch.setattr(reader, "_PATIENCE", 0.1)
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    with SQLiteStore(ran.database) as store:
        NonceProvider(store, "key").next()
        for suffix in ("", "-wal"):
            shutil.copy(f"{ran.database}{suffix}", copy)
    before = listing(copy)
    ran.database = copy / ran.database.name
    assert "has a -wal but no -shm" in ran.fails("show")
    assert listing(copy) == before


def test_a_missing_database_is_not_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where there is no database, commands that need one say so and make none."""
    for command in ("show", "calls", "watch", "next main", "reopen main"):
        code, out, err = run(capsys, *command.split(), "--db", tmp_path / "nonces.db")
        assert (code, out) == (2, "")
        assert err.startswith("error: there is no database ")
        assert "--db" in err
    assert list(tmp_path.iterdir()) == []


def test_the_default_place_is_not_made_to_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Reading the default place, where nothing is yet, makes no directory."""
    path = tmp_path / "state" / "persistent_nonce" / "nonces.db"
    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    monkeypatch.setattr(place, "home_path", lambda user: path)
    assert run(capsys, "show").code == 2
    assert run(capsys, "doctor").code == 1
    assert list(tmp_path.iterdir()) == []
