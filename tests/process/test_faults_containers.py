"""Two containers on one directory: other mounts, other process numbers, one kernel (fault A25)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, SQLiteStore
from tests.support.callers import GUARD, Book, until
from tests.support.checker import read_logs, violations
from tests.support.faulting_sizes import times
from tests.support.processes import Child
from tests.support.workers import KEY

ROOT: Final = Path(__file__).parents[2]

#: What `unshare` gives a process: mounts, and process numbers that begin with 1.
CONTAINER: Final = ["unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc"]

#: Draws and calls in a container.
BOTH: Final = """
import os, sys, time
from pathlib import Path
from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from tests.support.callers import Book
from tests.support.checker import Log
from tests.support.workers import KEY

path, logs, name, draws, calls = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
store = SQLiteStore(path, timeout=60)
print(os.getpid(), store.session().name, flush=True)
sys.stdin.readline()
Log(logs / f"{name}.log").draw(NonceProvider(store, "drawn", unit="ns"), draws)
gate = CallGate(store, KEY, min_interval=0.0, unit="ns", timeout=600)
for _ in range(calls):
    with gate.call("Balance") as call, Book(logs / "book").visit(call.nonce, 0):
        time.sleep(0.001)
if name == "killed":
    with gate.call("AddOrder"):
        print("in", flush=True)
        time.sleep(600)
store.close()
print("ended", flush=True)
"""


def containers_work() -> bool:
    """Whether this process may make containers."""
    if not shutil.which("unshare") or not shutil.which("mount"):
        return False
    trial = [*CONTAINER, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(
    not containers_work(), reason="NOT RUN: no right to make containers (unshare -m -p)"
)


@contextmanager
def container(shared: Path, *arguments: object) -> Iterator[Child]:
    """Run BOTH in a container that sees the directory `shared` at /mnt."""
    script = 'mount --bind "$0" /mnt && exec "$@"'
    program = [sys.executable, "-c", BOTH, "/mnt/nonces.db", *map(str, arguments)]
    child = Child(
        [*CONTAINER, "sh", "-euc", script, str(shared), *program],
        {**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield child
    finally:
        child.reap()


def test_two_containers_on_one_directory(tmp_path: Path) -> None:
    """Two containers draw 4,000 nonces and share one gate, though both have the same process numbers (I1, I2, I5)."""
    shared, logs = tmp_path / "shared", tmp_path / "logs"
    shared.mkdir(0o700)
    logs.mkdir()
    calls = times(40, 400)
    with (
        container(shared, logs, "one", 2_000, calls) as one,
        container(shared, logs, "other", 2_000, calls) as other,
    ):
        names = [child.line().split() for child in (one, other)]
        for child in (one, other):
            child.tell()
        for child in (one, other):
            child.wait_for("ended")
            assert child.end() == 0
    (pid, first), (other_pid, second) = names
    assert pid == other_pid == "1"
    assert first != second
    drawn = read_logs(logs)
    assert len(drawn) == 4_000
    assert violations(drawn) == []
    assert len(Book(logs / "book").visits()) == 2 * calls
    assert (shared / "nonces.db").exists()


def test_a_killed_container(tmp_path: Path) -> None:
    """The call of a container that was killed is found dead from outside, by its lock and not by its number (I3)."""
    shared, logs = tmp_path / "shared", tmp_path / "logs"
    shared.mkdir(0o700)
    logs.mkdir()
    with SQLiteStore(shared / "nonces.db", timeout=60) as store:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        with container(shared, logs, "killed", 10, 1) as child:
            _, session = child.line().split()
            child.tell()
            child.wait_for("in")
            assert store.session().dead([session]) == frozenset()
            # Seen from here process 1 is another one; without its file nobody can tell, so it lives.
            file = shared / "nonces.db.sessions" / f"{session}.lock"
            file.rename(shared / "aside")
            assert store.session().dead([session]) == frozenset()
            (shared / "aside").rename(file)
            child.reap()
        until(lambda: store.session().dead([session]) == {session}, "its end")
        with gate.call("Balance"):
            pass
        assert [r.outcome for r in store.calls()][:2] == ["ok", "interrupted"]
