"""Forks beside reservations: the nonces are the parent's, the child takes its own, and no thread loses one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore, leases, provider
from tests.support import databases
from tests.support.forking import Fork
from tests.support.processes import GUARD

path = databases.path


def test_a_fork_at_the_end_of_a_reservation(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that forks as the range is made, behind the transaction, gives no nonce to both sides (I1)."""
    children: list[int] = []
    output, write = os.pipe()

    def made(*arguments: int) -> range:
        monkeypatch.undo()
        children.append(os.fork())
        return range(*arguments)

    with SQLiteStore(path) as store:
        source = NonceProvider(store, "key", unit="ns")
        for module in (leases, provider):
            monkeypatch.setattr(module, "range", made, raising=False)
        taken = source.reserve(3)
        if not children[0]:
            os.write(write, " ".join(map(str, taken)).encode())
            os._exit(0)
        os.close(write)
        os.waitpid(children[0], 0)
    with os.fdopen(output) as pipe:
        childs = [int(nonce) for nonce in pipe.read().split()]
    assert len(childs) == 3
    assert not {*taken} & {*childs}


def test_a_process_has_its_number_before_its_first_nonce() -> None:
    """Threads that number their process only then would take each other for children, and each lose a nonce."""
    program = "from persistent_nonce import leases; print(leases._here[0])"
    new = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=GUARD
    )
    assert int(new.stdout)
    assert int(Fork(lambda: leases._here[0]).said()) not in (0, leases._here[0])
