"""A process that is told its boot, beside a call of one that is not, of which nobody can tell whether it lives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.errors import StoreUnavailableError
from tests.support import databases
from tests.support.callers import GUARD, Caller
from tests.support.processes import Children
from tests.support.workers import KEY

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
            gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
            for use in (gate.call("Balance").__enter__, NonceProvider(store, KEY).next):
                with pytest.raises(StoreUnavailableError, match="may be in flight"):
                    use()
            running = store.read(gate.key).running
            assert running is not None
            assert running.nonce == nonce
            holder.leave()
            with gate.call("Balance") as call:
                assert call.nonce > nonce
            assert {record.outcome for record in store.calls()} == {"ok"}
