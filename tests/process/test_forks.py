"""Stores and fork: a child draws nonces of its own, or is told that it cannot; the parent never notices."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import Now
from persistent_nonce.errors import ForkedCallError, NonceError, StoreUnavailableError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState
from persistent_nonce.stores import forks
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.stores.writer import Writer
from tests.support import databases
from tests.support.forking import Fork, forks_in
from tests.support.processes import GUARD, Children, descriptors
from tests.support.workers import KEY, hold_lock, next_by

# These tests fork beside threads on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

path, store = databases.path, databases.store

FORKS = 60


@contextmanager
def _drawing(provider: NonceProvider, threads: int) -> Iterator[list[int]]:
    """Have threads of this process inside the store all the time; yield the nonces they take."""
    drawn: list[int] = []
    end = threading.Event()

    def draw() -> None:
        while not end.is_set():
            mine = provider.next()
            drawn.append(mine)
            assert provider.last >= mine

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(draw) for _ in range(threads)]
        try:
            yield drawn
        finally:
            end.set()
    for thread in running:
        thread.result()


@pytest.mark.storm  # coverage's own lock is copied while a thread has it
def test_forks_beside_threads_inside_the_store(store: SQLiteStore, path: Path) -> None:
    """60 forks while threads draw: no nonce twice, no hang, no error in a thread, nothing stays locked (I1)."""
    provider = NonceProvider(store, KEY, unit="ns")
    for _ in range(3):  # so that the marks are shown, for the leases
        assert provider.next() == provider.last
    before = descriptors()

    def work() -> str:
        return " ".join(str(provider.next()) for _ in range(20))

    with _drawing(provider, 4) as drawn:
        said = [Fork(work).said().split() for _ in range(FORKS)]
    children = [int(nonce) for part in said for nonce in part]
    assert len(children) == FORKS * 20
    assert len(set(children + drawn)) == len(children + drawn)
    assert all(part == sorted(part) for part in said)
    assert descriptors() == before
    with Children() as other:
        assert other.call(next_by, path, 0.0).result() > max(children + drawn)


def test_threads_may_fork_at_once(store: SQLiteStore) -> None:
    """Threads that fork at the same time have children that all draw nonces of their own (I1)."""
    provider = NonceProvider(store, KEY, unit="ns")
    provider.next()
    ready = threading.Barrier(4)

    def fork(_: int) -> str:
        ready.wait(GUARD)
        return Fork(provider.next).said()

    with ThreadPoolExecutor(4) as pool:
        said = [nonce for _ in range(10) for nonce in pool.map(fork, range(4))]
    assert len({int(nonce) for nonce in said}) == 40


def test_child_that_never_uses_the_store(store: SQLiteStore, path: Path) -> None:
    """A child that leaves the store alone holds nothing of it: neither its lock nor its parent's session."""
    provider = NonceProvider(store, KEY)
    provider.next()
    store.session()
    child = Fork(lambda: os.readlink("/proc/self/exe") and _open_files(path))
    assert child.said().split() == []
    assert provider.next() > 0


def _open_files(path: Path) -> str:
    """Return the locked files of a store that this process has open."""
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    found = [os.readlink(link) for link in links if os.path.lexists(link)]
    return " ".join(f for f in found if f.startswith(str(path)) and f.endswith(".lock"))


def test_sleeping_child_of_a_killed_parent(tmp_path: Path) -> None:
    """A parent that is killed is found dead, and its lock is free, though a child that it forked lives on (I3)."""
    path = tmp_path / "nonces.db"
    source = (
        "import os, sys, time\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1])\n"
        "print(store.session().name, flush=True)\n"
        "if os.fork() == 0:\n"
        "    print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    with Children() as children:
        parent = children.script(source, path)
        name = parent.line()
        parent.wait_for("ready")
        with SQLiteStore(path) as store:
            assert store.session().dead([name]) == frozenset()
            parent.kill()
            assert store.session().dead([name]) == {name}


def test_child_of_an_unused_child(store: SQLiteStore) -> None:
    """A grandchild draws too, whether its parent used the store or not, as when a daemon forks twice (I1)."""
    provider = NonceProvider(store, KEY, unit="ns")
    first = provider.next()
    unused = Fork(lambda: Fork(provider.next).said()).said()
    used = Fork(lambda: f"{provider.next()} {Fork(provider.next).said()}").said()
    drawn = [first, int(unused), *map(int, used.split()), provider.next()]
    assert drawn == sorted(set(drawn))


def test_child_has_a_session_of_its_own(store: SQLiteStore) -> None:
    """A child that uses the store begins another session, in which its parent's is alive."""
    name = store.session().name

    def work() -> str:
        session = store.session()
        return f"{session.name} {len(session.dead([name]))}"

    child, dead = Fork(work).said().split()
    assert child != name
    assert dead == "0"
    assert store.session().name == name


def test_fork_inside_a_change(store: SQLiteStore) -> None:
    """A fork in the middle of an update, in its own thread, is an error in the child, which writes nothing (I1)."""
    provider = NonceProvider(store, KEY, unit="ns")
    before = provider.next()
    parent = os.getpid()
    output, write = os.pipe()
    seen: list[int] = []

    def change(state: KeyState, now: Now) -> Changed:
        if not seen:
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                seen.append(store.read(provider.key).nonce)
        return Changed(nonces.issue(state, now))

    try:
        drawn = store.update(provider.key, change).nonce
    except ForkedCallError:
        if os.getpid() == parent:
            raise
        again = Fork(provider.next).said()  # and stays one, in its children too
        os.write(write, f"told {again}".encode())
    finally:
        if os.getpid() != parent:
            os._exit(0)
    os.close(write)
    with os.fdopen(output) as pipe:
        assert pipe.read().split() == ["told", "ForkedCallError"]
    assert seen == [before]
    assert store.read(provider.key).nonce == drawn
    assert provider.next() > drawn


def test_forks_from_a_signal_handler(path: Path) -> None:
    """Wherever in a draw a signal handler forks, no nonce is handed out on both sides, and the parent goes on (I1)."""
    forks_in("forking_handler.py", path)


def test_fork_that_bypasses_the_hooks(store: SQLiteStore) -> None:
    """A child made by the C library's fork, of which Python knows nothing, is noticed by its pid."""
    provider = NonceProvider(store, KEY)
    fork = ctypes.PyDLL(None).fork
    for use in (provider.next, lambda: provider.last, store.session):
        for _ in range(3):  # a block is there
            provider.next()
        assert Fork(use, fork=fork).said() == ForkedCallError.__name__
    assert provider.next() > 0


def test_child_outlives_its_parents_store(path: Path) -> None:
    """A child that has used the store goes on, and loses nothing, when its parent closes it (I1)."""
    store = SQLiteStore(path)
    provider = NonceProvider(store, KEY, unit="ns")
    provider.next()
    go, tell = os.pipe()
    up, ready = os.pipe()

    def work() -> str:
        drawn = [provider.next()]
        os.write(ready, b"x")
        os.read(go, 1)
        drawn += [provider.next() for _ in range(3)]
        return " ".join(map(str, drawn))

    child = Fork(work)
    os.read(up, 1)
    store.close()
    os.write(tell, b"x")
    drawn = [int(nonce) for nonce in child.said().split()]
    for descriptor in (go, tell, up, ready):
        os.close(descriptor)
    with SQLiteStore(path) as store:
        assert NonceProvider(store, KEY).next() > max(drawn)


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


def test_store_closed_in_a_child(store: SQLiteStore) -> None:
    """A store that a child closes is closed there, and open in its parent."""

    def work() -> int:
        store.close()
        return NonceProvider(store, KEY).next()

    assert Fork(work).said() == StoreUnavailableError.__name__
    assert NonceProvider(store, KEY).next() > 0


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
