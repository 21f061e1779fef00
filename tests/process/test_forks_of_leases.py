"""A fork while a block of nonces is half used: the rest of it is the parent's, and the child takes its own."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from persistent_nonce import NonceProvider, SQLiteStore, leases
from persistent_nonce.errors import ForkedCallError
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.forking import Fork, forks_in
from tests.support.workers import KEY

# These tests fork beside threads on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

path = databases.path

FORKS = 20
THREADS = 4
EACH = 40

#: Nonces in ms of two whole blocks and half of a third; and where the calls are made that are counted.
BLOCKS = 24
LEASES = leases.__file__


@pytest.fixture
def provider(path: Path) -> Iterator[NonceProvider]:
    """Yield a provider whose blocks are void by no time: its clock stands still."""
    with SQLiteStore(path, timeout=60, clock=StillClock()) as store:
        yield NonceProvider(store, KEY, unit="ns")


def _draw(provider: NonceProvider) -> list[int]:
    """Draw from several threads at once; each has nonces that rise."""

    def draw(_: int) -> list[int]:
        drawn = [provider.next() for _ in range(EACH)]
        assert drawn == sorted(set(drawn))
        return drawn

    with ThreadPoolExecutor(THREADS) as pool:
        return [nonce for part in pool.map(draw, range(THREADS)) for nonce in part]


def test_both_draw_on_after_a_fork(provider: NonceProvider) -> None:
    """Parent and child go on with a half-used block, from one thread and from many: no nonce twice (I1)."""
    drawn, children = [], []
    for number in range(FORKS):
        drawn += [provider.next() for _ in range(30)]
        while drawn[-1] == provider._store.read(provider.key).nonce:
            drawn.append(provider.next())  # it was the last of a block
        assert provider.last == drawn[-1]
        if number % 2:
            child = Fork(lambda: " ".join(map(str, _draw(provider))))
            drawn += _draw(provider)
        else:
            child = Fork(provider.next)
            drawn += [provider.next() for _ in range(30)]
        children += [int(nonce) for nonce in child.said().split()]
    assert len(children) == FORKS // 2 * (THREADS * EACH + 1)
    assert len({*drawn, *children}) == len(drawn) + len(children)


def test_a_grandchild_of_a_burst(provider: NonceProvider) -> None:
    """A child that forks before it has drawn anything hands nothing of its parent's block on (I1)."""
    drawn = [provider.next() for _ in range(30)]
    said = Fork(lambda: f"{Fork(provider.next).said()} {provider.next()}").said()
    drawn += [int(nonce) for nonce in said.split()]
    drawn += [provider.next() for _ in range(30)]
    assert len(set(drawn)) == 62


def test_the_last_of_a_burst_is_not_the_childs(provider: NonceProvider) -> None:
    """A child does not take what its parent knows of a half-used block for the last nonce that anybody has (I2)."""
    drawn = [provider.next() for _ in range(30)]
    assert provider.last == drawn[-1]
    child = Fork(lambda: provider.last)
    drawn += [provider.next() for _ in range(30)]
    assert int(child.said()) >= drawn[29]


class _ForkAt:
    """Forks where a signal handler may run: at the number-th call, or return from C, that a lease makes."""

    def __init__(self, number: int, fork: Callable[[], int] = os.fork) -> None:
        self.left = number
        self.child = -1
        self._fork = fork

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """Fork, if that is here; see `sys.setprofile`."""
        if event not in ("call", "c_return") or frame.f_code.co_filename != LEASES:
            return
        self.left -= 1
        if not self.left:
            sys.setprofile(None)
            self.child = self._fork()


def _draw_and_fork(provider: NonceProvider, at: _ForkAt, output: int) -> list[int]:
    """Draw a few blocks; a child writes its first nonces and ends."""
    parents = []
    sys.setprofile(at)
    try:
        for _ in range(BLOCKS):
            nonce = provider.next()
            if not at.child:
                childs = [nonce, provider.next(), provider.next()]
                os.write(output, " ".join(map(str, childs)).encode())
                break
            parents.append(nonce)
    finally:
        sys.setprofile(None)
        if not at.child:
            os._exit(0)
    return parents


def test_a_fork_at_each_point_of_a_draw(path: Path) -> None:
    """Wherever in a draw or a renewal a handler forks, both sides go on with nonces of their own (I1).

    But for a child that was forked inside the transaction, which is its parent's: it is told.
    """
    number, told, forked = 0, 0, True
    while forked:
        number += 1
        with SQLiteStore(path, timeout=60, clock=StillClock()) as store:
            at = _ForkAt(number)
            output, write = os.pipe()
            drawn = _draw_and_fork(NonceProvider(store, KEY), at, write)
            os.close(write)
            with os.fdopen(output) as pipe:
                childs = [int(nonce) for nonce in pipe.read().split()]
            forked = at.child > 0
            if forked:
                os.waitpid(at.child, 0)
        assert len(drawn) == BLOCKS
        assert len({*drawn, *childs}) == len(drawn) + len(childs), number
        assert len(childs) in (0, 3)
        told += not childs
    assert number > 100
    assert told < number // 4


def test_a_fork_that_python_knows_nothing_of_at_each_point_of_a_draw(
    path: Path,
) -> None:
    """A child of the C library's fork gets nothing, wherever that was in a draw, and though it asks first (I1; A15).

    Found by review: it gave itself a number, by which the block that its parent had asked for became its own.
    """
    number, forked = 0, True
    while forked:
        number += 1
        with SQLiteStore(path, timeout=60, clock=StillClock()) as store:
            provider = NonceProvider(store, KEY)

            def fork(provider: NonceProvider = provider) -> int:
                child: int = ctypes.PyDLL(None).fork()
                if not child:
                    with suppress(ForkedCallError):
                        provider.next()
                return child

            at = _ForkAt(number, fork)
            output, write = os.pipe()
            drawn = _draw_and_fork(provider, at, write)
            os.close(write)
            with os.fdopen(output) as pipe:
                assert pipe.read() == "", number
            forked = at.child > 0
            if forked:
                os.waitpid(at.child, 0)
        assert len({*drawn}) == BLOCKS
    assert number > 100


def test_forks_by_a_signal_handler_in_a_burst(path: Path) -> None:
    """Wherever a handler forks, also between a draw and its look, no nonce is handed out on both sides (I1)."""
    assert forks_in("forking_burst.py", path) > 100
