"""The store's lock: between threads, between open files, with a deadline, and given back whatever happens."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from persistent_nonce.errors import (
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from persistent_nonce.stores.lock import StoreLock

#: Seconds; a guard for a thread that hangs.
GUARD = 60.0

Maker = Callable[[float], StoreLock]


@pytest.fixture
def maker(tmp_path: Path) -> Iterator[Maker]:
    """Yield what makes locks on one file, each open for itself as in another process."""
    made = []

    def make(timeout: float) -> StoreLock:
        descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        made.append(StoreLock(descriptor, "the lock", timeout))
        return made[-1]

    yield make
    for lock in made:
        lock.close()


class Stub:
    """A mutex that is never free, and the time that waiting for it takes."""

    def __init__(self) -> None:
        self.time = 100.0

    def acquire(self, *, timeout: float) -> bool:
        """Wait for nothing, but for all of the timeout."""
        self.time += timeout
        return False

    def release(self) -> None:
        """Refuse, as an RLock does when somebody else has it."""
        raise RuntimeError


def _is_free(lock: StoreLock) -> bool:
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
    return True


def test_result_is_returned_and_the_lock_given_back(maker: Maker) -> None:
    """Under the lock nobody else gets it; afterwards it is free."""
    one, other = maker(GUARD), maker(GUARD)
    assert one.hold(lambda: _is_free(other)) is False
    assert _is_free(other)


def test_error_passes_through_and_the_lock_is_given_back(maker: Maker) -> None:
    """An error of the work comes out as it is, and the lock is free, for other threads too."""
    one, other = maker(GUARD), maker(GUARD)
    with pytest.raises(ZeroDivisionError):
        one.hold(lambda: 1 // 0)
    assert _is_free(other)
    done = []
    thread = threading.Thread(target=lambda: done.append(one.hold(lambda: 5)))
    thread.start()
    thread.join(GUARD)
    assert done == [5]


def test_waits_until_another_holder_lets_go(maker: Maker) -> None:
    """Who finds the lock held by another process gets it once it is free."""
    one, other = maker(GUARD), maker(GUARD)
    got = threading.Event()
    thread = threading.Thread(target=lambda: other.hold(got.set))

    def work() -> bool:
        thread.start()
        return got.wait(0.05)

    assert one.hold(work) is False
    assert got.wait(GUARD)
    thread.join(GUARD)


def test_threads_exclude_each_other(maker: Maker) -> None:
    """Threads of one lock are never inside together, though they share its descriptor."""
    lock = maker(GUARD)
    inside: list[int] = []
    most = []

    def work() -> None:
        inside.append(1)
        most.append(len(inside))
        os.stat("/")  # lets other threads run
        inside.pop()

    def run() -> None:
        for _ in range(300):
            lock.hold(work)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GUARD)
    assert len(most) == 1_200
    assert max(most) == 1


def test_timeout_names_the_lock(maker: Maker) -> None:
    """A wait for a held lock ends with an error that says whose lock it was, and leaves the mutex free."""
    one, other = maker(GUARD), maker(0.01)
    with pytest.raises(StoreTimeoutError, match=r"the lock was not free for 0\.01 s"):
        one.hold(lambda: other.hold(lambda: None))
    assert other.hold(lambda: 1) == 1


def test_waiting_for_a_thread_counts_too(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for another thread of this process is no longer than the timeout in all (I8)."""
    lock, mutex = maker(10.0), Stub()
    monkeypatch.setattr(lock, "_mutex", mutex)
    monkeypatch.setattr(time, "monotonic", lambda: mutex.time)
    with pytest.raises(StoreTimeoutError):
        lock.hold(lambda: None)
    assert mutex.time == pytest.approx(110.0)


def test_reentry_is_an_error_at_once(maker: Maker) -> None:
    """The same thread, in a signal handler or a finalizer, is told so instead of waiting for itself (I8)."""
    lock = maker(3_600.0)
    with pytest.raises(StoreError, match="by this very thread"):
        lock.hold(lambda: lock.hold(lambda: None))
    assert not lock.inside
    assert lock.hold(lambda: lock.inside)


def test_waiting_keeps_no_thread_from_the_mutex(maker: Maker) -> None:
    """While the kernel's lock is waited for, the mutex is free between tries, so that a fork can pass."""
    one, other = maker(GUARD), maker(GUARD)
    thread = threading.Thread(target=lambda: other.hold(lambda: None))

    def work() -> bool:
        thread.start()
        return other.rest(time.monotonic() + GUARD)

    assert one.hold(work)
    thread.join(GUARD)


def test_closed_lock_is_an_error(maker: Maker) -> None:
    """After close nothing is locked through its descriptor, whose number may be another file's by then."""
    lock = maker(GUARD)
    lock.close()
    with pytest.raises(StoreUnavailableError, match="given back"):
        lock.hold(lambda: None)


def test_abandoned_copy_does_not_unlock(maker: Maker) -> None:
    """Giving up a copy that was inherited over fork leaves the parent's lock held."""
    parent, other = maker(GUARD), maker(GUARD)
    copy = StoreLock(os.dup(parent.descriptor), "the copy", GUARD)

    def work() -> bool:
        copy.abandon()
        return _is_free(other)

    assert parent.hold(work) is False
    assert copy.forked
    assert not parent.forked
