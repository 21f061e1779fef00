"""Processes of one store of which some are told the boot and some are not (systemd's ProcSubset=pid, a bare chroot)."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.clock import SYSTEM_CLOCK
from persistent_nonce.errors import StoreUnavailableError
from tests.support import databases
from tests.support.callers import GUARD, Caller, Nameless
from tests.support.processes import Children
from tests.support.workers import KEY

path, children = databases.path, databases.children


@pytest.mark.parametrize("told", [True, False], ids=["told first", "untold first"])
def test_a_call_of_the_other_kind(path: Path, children: Children, told: bool) -> None:
    """Nobody takes the call of a living process for one of another boot, whatever name its boot has (I5, I9)."""
    holder = Caller(children, path, nameless=not told)
    nonce = holder.enter("AddOrder")
    with SQLiteStore(path, clock=Nameless() if told else SYSTEM_CLOCK) as store:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        provider = NonceProvider(store, KEY)
        for use in (gate.call("Balance").__enter__, provider.next):
            with pytest.raises(StoreUnavailableError, match="another boot"):
                use()
        running = store.read(gate.key).running
        assert running is not None
        assert running.nonce == nonce
        holder.leave()
        with gate.call("Balance") as call:
            assert call.nonce > nonce
        assert {record.outcome for record in store.calls()} == {"ok"}
