"""Killed at, or failed by, each system call: an error or a new nonce, and it works again afterwards (I1, I3, I9).

A tracer is attached just before the work begins, so that every call of the work is struck, of whatever file, and no
call of the interpreter's start.
"""

from __future__ import annotations

import subprocess
import time
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.state import fingerprint
from tests.support.doomed_works import WORKS
from tests.support.killing import profile
from tests.support.processes import Children
from tests.support.tracing import assault, why_not
from tests.support.workers import KEY

DEEP = profile() == "deep"

#: What the works do to files. `fcntl` is SQLite's locks, `flock` the store's and the sessions'.
CALLS = [
    *(
        "pwrite64",
        "fdatasync",
        "fsync",
        "ftruncate",
        "unlink",
        "openat",
        "fcntl",
        "flock",
    ),
    *("mkdir", "fchmod", "close", "rename", "fallocate", "pwritev"),
]

#: Those that fail with these errors. SQLite takes an error from `fcntl` for a lock of somebody else and waits for up to
#: 10 s each time, so that only some of these are tried.
FAILING = {
    "EIO": [call for call in CALLS if call != "fcntl"],
    "ENOSPC": [
        "pwrite64",
        "fdatasync",
        "fsync",
        "ftruncate",
        "openat",
        "mkdir",
        "fallocate",
    ],
}

#: Which of a work's calls are struck (each, each fourth, …), and how many kills that comes to at the least.
KILLS = (
    dict.fromkeys(WORKS, (1, 10)) | {"opening": (1, 150), "behind": (1, 60)}
    if DEEP
    else {
        "ceiling": (1, 15),
        "calling": (4, 12),
        "opening": (16, 12),
        "closing": (3, 6),
    }
)

#: The same for errors.
ERRORS = (
    dict.fromkeys(WORKS, (1, 10)) | {"opening": (1, 150), "calling": (1, 60)}
    if DEEP
    else {"ceiling": (1, 20), "calling": (5, 12), "opening": (30, 15)}
)


@lru_cache
def obstacle() -> str:
    """Return why this cannot be tried here; empty if it can."""
    return why_not()


def strike(directory: Path, work: str, faults: list[list[str]], step: int) -> int:
    """Do a work under each fault, and return how many struck; nothing may have been wrong."""
    if obstacle():
        pytest.skip(f"NOT RUN: {obstacle()}")
    with Children() as children:
        found = children.call(assault, work, directory, faults, step).result()
    assert found["wrong"] == []
    return sum(found["struck"].values())


@pytest.mark.timeout(3600 if DEEP else 600)
@pytest.mark.parametrize("work", KILLS)
def test_killed_at_each_system_call(tmp_path: Path, work: str) -> None:
    """Killed as it enters any system call, a process leaves no lock, no lower nonce and no lost call (fault A3)."""
    step, least = KILLS[work]
    faults = [[call, "signal=KILL", ""] for call in CALLS]
    assert strike(tmp_path, work, faults, step) >= least


@pytest.mark.timeout(3600 if DEEP else 600)
@pytest.mark.parametrize("work", ERRORS)
def test_failed_at_each_system_call(tmp_path: Path, work: str) -> None:
    """Whatever system call fails, once or ever after: an error that says that no nonce was issued, or a new nonce.

    When the system has recovered the same store works again, and so does the next process (fault A4).
    """
    step, least = ERRORS[work]
    faults = [
        [call, f"error={error}", on]
        for error, on in product(FAILING, ["", "+"])
        for call in FAILING[error]
    ]
    assert strike(tmp_path, work, faults, step) >= least


@pytest.mark.skipif(not DEEP, reason="NOT RUN: minutes; HYPOTHESIS_PROFILE=deep does")
@pytest.mark.timeout(3600)
def test_failed_locks_of_sqlite(tmp_path: Path) -> None:
    """An error from each of SQLite's locks is an error or a new nonce too, if after its own patience (fault A4)."""
    assert strike(tmp_path, "ceiling", [["fcntl", "error=EIO", ""]], 1) >= 10


#: Takes a nonce when it is told to.
DRAW = f"""
import sys
from persistent_nonce import NonceProvider, SQLiteStore
provider = NonceProvider(SQLiteStore(sys.argv[1]), {KEY!r})
print("ready", flush=True)
input()
print(provider.next(), flush=True)
"""


@pytest.mark.skipif(not DEEP, reason="NOT RUN: 20 s; HYPOTHESIS_PROFILE=deep does")
def test_disk_that_takes_longer_than_a_ceiling_lasts(tmp_path: Path) -> None:
    """With six seconds for each fsync a nonce still comes, after as many as one ceiling needs (I8)."""
    if obstacle():
        pytest.skip(f"NOT RUN: {obstacle()}")
    with SQLiteStore(tmp_path / "nonces.db") as store:
        last = NonceProvider(store, KEY).next()
        synced = store.read(fingerprint(KEY)).synced
    with Children() as children:
        child = children.script(DRAW, tmp_path / "nonces.db")
        child.wait_for("ready")
        while time.time_ns() // 1_000_000 <= synced:
            time.sleep(0.1)
        slow = "inject=fdatasync,fsync:delay_exit=6000000"
        command = ["strace", "-f", "-p", str(child.pid), "-o", str(tmp_path / "notes")]
        command += ["-e", "trace=fdatasync,fsync", "-e", slow]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
            assert tracer.stderr is not None
            assert b"attached" in tracer.stderr.readline()
            child.tell()
            assert int(child.line()) > last
            tracer.terminate()
    assert (tmp_path / "notes").read_text().count("DELAYED") <= 6
