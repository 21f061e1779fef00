"""Calls and nonces while another process holds the store's lock, and does not move: each waits for it once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore, room
from persistent_nonce.errors import StoreTimeoutError
from persistent_nonce.state import Changed
from tests.support import databases
from tests.support.processes import GUARD, Children
from tests.support.workers import KEY, hold_lock

path, children = databases.path, databases.children

TASKS = 60

#: Seconds for which the lock is waited for: long enough for all tasks to have asked meanwhile.
PATIENCE = 0.5


class Waits:
    """Which threads have waited for a store's lock."""

    def __init__(self, store: SQLiteStore) -> None:
        self.threads: list[int] = []
        lock: Any = store._lock
        self._hold = lock.hold
        lock.hold = self._count

    def _count(self, work: Callable[[], object]) -> object:
        self.threads.append(threading.get_ident())
        return self._hold(work)

    @property
    def mine(self) -> int:
        """How often this thread has."""
        return self.threads.count(threading.get_ident())


@pytest.fixture
def locked(path: Path, children: Children) -> Iterator[SQLiteStore]:
    """Yield a store that was in use, and whose lock another process holds."""
    with SQLiteStore(path, timeout=PATIENCE) as store:
        with CallGate(store, KEY, min_interval=0.0).call("Balance"):
            pass
        holder = children.call(hold_lock, path)
        holder.wait_for("ready")
        try:
            yield store
        finally:
            holder.tell()
            holder.end()


async def _all_refused(gate: CallGate) -> None:
    """Have tasks call at once, each of which is told that the store is locked."""

    async def call() -> None:
        with pytest.raises(StoreTimeoutError):
            async with gate.call("Balance"):
                raise AssertionError

    await asyncio.gather(*(call() for _ in range(TASKS)))


def test_a_call_waits_for_the_lock_once(locked: SQLiteStore) -> None:
    """A call that finds the store locked is refused after one wait, also with others left to be ended (I8)."""
    gate = CallGate(locked, KEY)
    for _ in range(2):
        waits = Waits(locked)
        with pytest.raises(StoreTimeoutError), gate.call("Balance"):
            raise AssertionError
        assert waits.mine == 1


def test_a_nonce_waits_for_the_lock_once(locked: SQLiteStore) -> None:
    """A nonce is refused after one wait for the lock, whatever else could not be stored before (I8)."""
    provider = NonceProvider(locked, KEY)
    locked.later(provider.key, lambda state, _: Changed(state))
    waits = Waits(locked)
    with pytest.raises(StoreTimeoutError):
        provider.next()
    assert waits.mine == 1


def test_many_tasks_wait_for_the_lock_once(
    locked: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that find the store locked are refused together: no one waits for those before it (I8)."""
    monkeypatch.setattr(room, "_AT_ONCE", 2)  # as if they were thousands
    gate = CallGate(locked, KEY)
    updates: list[str] = []
    update = locked.update

    def counted(key: str, *arguments: Any, **named: Any) -> Any:
        updates.append(key)
        return update(key, *arguments, **named)

    locked.update = counted  # type: ignore[method-assign]  # a count beside it

    asyncio.run(_all_refused(gate))
    # One for all that had asked before it ended; on a slow machine a few more.
    assert len(updates) < TASKS // 4
    assert not locked.session().live


def test_what_was_left_is_ended_with_the_next_change(
    path: Path, children: Children
) -> None:
    """What could not be ended while the store was locked is, before the next change has given the lock back (I5)."""
    with SQLiteStore(path, timeout=PATIENCE) as store:
        gate = CallGate(store, KEY, min_interval=0.0)
        holder = children.call(hold_lock, path)
        with gate.call("Balance"):
            holder.wait_for("ready")
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(GUARD)  # it gives up
        assert store.read(gate.key).running
        holder.tell()
        holder.end()
        NonceProvider(store, "another key").next()
        assert not store.read(gate.key).running


def test_many_tasks_ask_for_a_session_once(path: Path, children: Children) -> None:
    """Tasks whose process has no session yet, and cannot begin one, are refused together (I8)."""
    with SQLiteStore(path, timeout=PATIENCE) as store:
        gate, asked = CallGate(store, KEY), Waits(store)
        holder = children.call(hold_lock, path)
        holder.wait_for("ready")
        asyncio.run(_all_refused(gate))
        assert len(asked.threads) < TASKS // 4
        holder.tell()
        holder.end()
