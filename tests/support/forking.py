"""A forked child of the test's own process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.support.processes import GUARD

__all__ = ["FORKS", "Fork", "forks_in", "report"]

#: How many forks a test of them makes, one after the other.
FORKS: Final = 60


class Fork:
    """A forked child of the test's process that does `work`, and what it wrote."""

    def __init__(
        self, work: Callable[[], object], *, fork: Callable[[], int] = os.fork
    ) -> None:
        self._output, write = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            try:
                os.write(write, f"{work()}".encode())
            except BaseException as error:  # noqa: BLE001 - told to the test
                os.write(write, type(error).__name__.encode())
            finally:
                os._exit(0)
        os.close(write)

    def said(self) -> str:
        """Return what `work` returned, or the name of its error; the child has ended then, or is killed."""
        ready, _, _ = select.select([self._output], [], [], GUARD)
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
        found = b""
        while part := os.read(self._output, 65_536):
            found += part
        os.close(self._output)
        os.waitpid(self.pid, 0)
        assert ready, f"child {self.pid} hung"
        return found.decode()


def forks_in(program: str, path: Path) -> int:
    """Run a program beside this file that forks in the middle of draws; return how many nonces its children got."""
    source = Path(__file__).with_name(program)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(source), str(path)],
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    theirs, wrong = map(int, done.stdout.split())
    assert wrong == 0
    return theirs


def report(children: Sequence[int], output: int, drawn: Sequence[int]) -> None:
    """End such a program: compare what it has drawn with what its children have written to a pipe, and tell."""
    for child in children:
        os.waitpid(child, 0)
    with os.fdopen(output) as pipe:
        theirs = [int(line) for line in pipe]
    both = [*drawn, *theirs]
    wrong = len(both) - len(set(both)) + sum(a >= b for a, b in pairwise(drawn))
    sys.stdout.write(f"{len(theirs)} {wrong}\n")
