"""A call that waits on a thread is woken when the call ahead of it ends in another process."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from persistent_nonce import CallGate, SQLiteStore, passage
from tests.support import databases
from tests.support.callers import GUARD, Caller, until
from tests.support.processes import Children
from tests.support.workers import KEY

path, store, children = databases.path, databases.store, databases.children


def bell_is_up() -> bool:
    """Whether a call of this process has a bell."""
    return f"@persistent_nonce:{os.getpid()}-" in Path("/proc/net/unix").read_text()


def test_the_next_call_begins_without_a_look(
    path: Path,
    store: SQLiteStore,
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who would not look for a minute has its turn at once when the call ahead ends in another process (I7)."""
    monkeypatch.setattr(passage, "_LOOK", (2 * GUARD, 2 * GUARD))
    monkeypatch.setattr(passage, "_LOOK_LONGEST", 2 * GUARD)
    gate = CallGate(store, KEY, min_interval=0.0, timeout=3 * GUARD)
    other = Caller(children, path)
    other.enter("Balance")
    begun = threading.Event()

    def call() -> None:
        with gate.call("Ledgers"):
            begun.set()

    thread = threading.Thread(target=call)
    thread.start()
    until(bell_is_up, "a bell")
    assert not begun.is_set()
    other.leave()
    assert begun.wait(GUARD)
    thread.join(GUARD)
    assert not bell_is_up()
