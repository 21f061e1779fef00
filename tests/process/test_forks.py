"""Stores and fork: a child draws nonces of its own, or is told that it cannot; the parent never notices."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import Now
from persistent_nonce.errors import ForkedCallError, StoreUnavailableError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.forking import FORKS, Fork, forks_in
from tests.support.processes import GUARD, Children, descriptors
from tests.support.workers import KEY, next_by

# These tests fork beside threads on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

path, store = databases.path, databases.store


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


def test_store_closed_in_a_child(store: SQLiteStore) -> None:
    """A store that a child closes is closed there, and open in its parent."""

    def work() -> int:
        store.close()
        return NonceProvider(store, KEY).next()

    assert Fork(work).said() == StoreUnavailableError.__name__
    assert NonceProvider(store, KEY).next() > 0
