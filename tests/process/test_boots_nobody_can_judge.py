"""A process that is told its boot, beside a call of one that is not, of which nobody can tell whether it lives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import SQLiteStore
from tests.support import databases
from tests.support.callers import Caller, nothing_begins_beside
from tests.support.processes import Children

path = databases.path

#: What gives a process numbers of its own, with the /proc of those outside.
NUMBERED: Final = ("unshare", "-m", "-p", "--fork", "--kill-child")


def _works() -> bool:
    if not shutil.which("unshare"):
        return False
    return not subprocess.run(
        [*NUMBERED, "true"], capture_output=True, check=False
    ).returncode


@pytest.mark.skipif(
    not _works(), reason="NOT RUN: no right to make pid namespaces (unshare -p)"
)
def test_a_call_of_another_boot_that_nobody_can_judge(path: Path) -> None:
    """A call of a container without its session's file is not ended by who takes it for another boot's (I5, I9)."""
    with Children(*NUMBERED) as children:
        holder = Caller(children, path, nameless=True)
        nonce = holder.enter("AddOrder")
        for file in path.with_name(path.name + ".sessions").iterdir():
            file.unlink()
        with SQLiteStore(path) as store:
            nothing_begins_beside(holder, nonce, store, saying="may be in flight")
