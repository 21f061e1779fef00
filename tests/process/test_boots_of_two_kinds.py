"""Processes of one store of which some are told the boot and some are not (systemd's ProcSubset=pid, a bare chroot)."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.clock import SYSTEM_CLOCK
from tests.support import databases
from tests.support.callers import Caller, Nameless, nothing_begins_beside
from tests.support.processes import Children

path, children = databases.path, databases.children


@pytest.mark.parametrize("told", [True, False], ids=["told first", "untold first"])
def test_a_call_of_the_other_kind(path: Path, children: Children, told: bool) -> None:
    """Nobody takes the call of a living process for one of another boot, whatever name its boot has (I5, I9)."""
    holder = Caller(children, path, nameless=not told)
    nonce = holder.enter("AddOrder")
    with SQLiteStore(path, clock=Nameless() if told else SYSTEM_CLOCK) as store:
        nothing_begins_beside(holder, nonce, store, saying="another boot")
