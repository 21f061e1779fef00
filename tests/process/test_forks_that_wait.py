"""What a fork waits for, and what it does not: threads inside a store, stores that come or go, locks of others."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from persistent_nonce.adapters import base
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import NonceError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores import forks
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.stores.writer import Writer
from tests.support import databases
from tests.support.forking import FORKS, Fork
from tests.support.processes import GUARD, Children
from tests.support.workers import KEY, hold_lock

# These tests fork beside threads on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

path, store = databases.path, databases.store


class Sleeper:
    """What takes part in forks, and delays one until it is told."""

    def __init__(self) -> None:
        self.asked, self.go = threading.Event(), threading.Event()

    def before_fork(self, until: float) -> bool:
        """Let the test go on, then the fork."""
        self.asked.set()
        return self.go.wait(GUARD)

    def after_fork_in_child(self, *, at_rest: bool) -> None:
        """Give up nothing."""


def test_nobody_enters_while_a_thread_forks(store: SQLiteStore) -> None:
    """From a fork's beginning to its end no other thread enters a store; afterwards they go on (A15)."""
    provider = NonceProvider(store, KEY)
    provider.next()
    sleeper = Sleeper()
    forks.register(sleeper)
    with ThreadPoolExecutor(3) as pool:

        def during(use: Callable[[], int]) -> int:
            assert sleeper.asked.wait(GUARD)
            return use()

        # All before the fork: the pool has a lock of its own for forks.
        draw = pool.submit(during, provider.next)
        look = pool.submit(during, lambda: provider.last)
        child = pool.submit(lambda: Fork(provider.next).said())
        assert sleeper.asked.wait(GUARD)
        time.sleep(0.05)  # were they not to wait, they would be through by now
        early = draw.done() or look.done()
        sleeper.go.set()
        assert not early
        assert int(child.result(GUARD)) != draw.result(GUARD)
        assert look.result(GUARD)
    assert forks.under_way == []


def _open_one(path: Path) -> None:
    thread = threading.Thread(target=SQLiteStore, args=(path,), daemon=True)
    thread.start()


def _close_one(path: Path) -> None:
    threading.Thread(target=SQLiteStore(path).close, daemon=True).start()


def _drop_one(path: Path) -> None:
    cycle: list[object] = [SQLiteStore(path)]
    cycle.append(cycle)  # found by the collector, which clears weak references
    del cycle
    gc.collect()


@pytest.mark.parametrize(
    ("method", "act"),
    [("_set_up", _open_one), ("close", _close_one), ("close", _drop_one)],
    ids=["opened", "closed", "dropped"],
)
def test_a_fork_waits_for_a_store_that_comes_or_goes(
    path: Path,
    store: SQLiteStore,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    act: Callable[[Path], None],
) -> None:
    """No child is copied while a thread is in SQLite to open or to close another store; it can use its own (A15)."""
    provider = NonceProvider(store, KEY)
    provider.next()
    begun, inside = threading.Event(), [0]
    real: Callable[..., None] = getattr(Writer, method)

    def slowly(writer: Writer, *arguments: object) -> None:
        inside[0] += 1
        begun.set()
        time.sleep(0.1)  # a fork that does not wait comes meanwhile
        real(writer, *arguments)
        inside[0] -= 1

    with monkeypatch.context() as patch:
        patch.setattr(Writer, method, slowly)
        act(path.with_name("other.db"))
        assert begun.wait(GUARD)
        copied, nonce = Fork(lambda: f"{inside[0]} {provider.next()}").said().split()
    assert copied == "0"
    assert int(nonce) < provider.next()


def test_forks_beside_stores_that_are_dropped(path: Path, store: SQLiteStore) -> None:
    """Forks at any moment after a store was dropped, which a thread then closes, have children that draw (I1; A15)."""
    provider, chance = NonceProvider(store, KEY, unit="ns"), random.Random(2)
    drawn = [provider.next()]
    for _ in range(FORKS):
        other = SQLiteStore(path.with_name("other.db"))
        NonceProvider(other, KEY).next()
        del other
        end = time.perf_counter() + chance.uniform(0, 400e-6)
        while time.perf_counter() < end:
            pass
        drawn.append(int(Fork(provider.next).said()))
    assert drawn == sorted(set(drawn))


def test_fork_while_another_process_holds_the_lock(
    store: SQLiteStore, path: Path
) -> None:
    """A thread that waits for the lock of another process does not delay a fork until it has it."""
    provider = NonceProvider(store, KEY, unit="ns")
    provider.next()
    descriptor = os.open(f"{path}.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(provider.next)
        child = Fork(lambda: "free")
        assert child.said() == "free"
        assert not waiting.done()
        os.close(descriptor)
        assert waiting.result(GUARD) > 0


def test_timeout_of_a_child(path: Path) -> None:
    """A child whose first use finds the lock held gives up within its timeout, and draws once it is free."""
    with SQLiteStore(path, timeout=0.05) as store, Children() as children:
        provider = NonceProvider(store, KEY)
        provider.next()
        holder = children.call(hold_lock, path)
        holder.wait_for("ready")

        def work() -> str:
            try:
                provider.next()
            except NonceError as error:
                holder_gone = type(error).__name__
            holder.tell()
            deadline = time.monotonic() + GUARD
            while True:
                try:
                    return f"{holder_gone} {provider.next() > 0}"
                except NonceError:
                    assert time.monotonic() < deadline

        assert Fork(work).said() == "StoreTimeoutError True"


def test_a_fork_beside_the_opening_of_the_default_store(
    monkeypatch: pytest.MonkeyPatch, store: SQLiteStore
) -> None:
    """A child forked while another thread opens the default store opens it for itself, and waits for nobody (I8)."""
    begun, go = threading.Event(), threading.Event()

    def open_slowly() -> SQLiteStore:
        begun.set()
        assert go.wait(GUARD)
        return store

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", open_slowly)
    client = API(KEY, "secret")
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(client._find_gate)
        assert begun.wait(GUARD)
        monkeypatch.setattr(base, "open_store", lambda: store)
        child = Fork(lambda: client._find_gate().store is store)
        try:
            assert child.said() == "True"
        finally:
            go.set()
        assert opened.result(GUARD).store is store
