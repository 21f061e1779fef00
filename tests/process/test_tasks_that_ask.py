"""Tasks that ask for their process's session together: what becomes of the others when the first one is ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from types import FrameType
from typing import Any

import pytest

from persistent_nonce import CallGate, room
from persistent_nonce.stores.sessions import FileSession
from tests.support import crowds
from tests.support.callers import GUARD
from tests.support.crowds import LOOPS, RUN, NotingStore, nothing_left

store, gate = crowds.store, crowds.gate

TASKS = 40

#: Where the calls are made that are counted, and where they lead.
PLACES = (room.__file__, contextlib.__file__)


@pytest.fixture
def slow(store: NotingStore, monkeypatch: pytest.MonkeyPatch) -> NotingStore:
    """Return a store whose first session comes late."""
    asked, session = itertools.count(), store.session

    def begin() -> FileSession:
        if next(asked) == 0:
            time.sleep(0.1)
        return session()

    monkeypatch.setattr(store, "session", begin)
    return store


@LOOPS
def test_the_first_to_ask_is_cancelled(
    slow: NotingStore, gate: CallGate, loop: str
) -> None:
    """Tasks that ask for their session at once go on in their order, also when the first of them is cancelled (I7)."""
    order: list[int] = []

    async def passes(number: int) -> None:
        async with gate.call("Balance"):
            order.append(number)

    async def main() -> None:
        first = [asyncio.ensure_future(passes(number)) for number in range(TASKS)]
        await asyncio.sleep(0)
        first[0].cancel()
        while slow.known_session() is None:  # noqa: ASYNC110 - begun in a thread
            await asyncio.sleep(0)
        late = [asyncio.ensure_future(passes(TASKS + number)) for number in range(20)]
        await asyncio.gather(*first, *late, return_exceptions=True)

    RUN[loop](main())
    assert order == [*range(1, TASKS + 20)]
    assert nothing_left(slow, gate)


class _Struck(Exception):  # noqa: N818 - what a program's own signal handler raises
    """Raised by a handler."""


class _StrikeAt:
    """Raises where a signal handler may run: at the number-th call, or return from C, of who asks for all."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Raise, if that is here; see `sys.setprofile`."""
        if event not in ("call", "c_return") or frame.f_code.co_filename not in PLACES:
            return
        asks = (frame, frame.f_back)
        if not any(f and f.f_code is room._ask_for_all.__code__ for f in asks):
            return
        self.left -= 1
        if not self.left:
            sys.setprofile(None)
            raise _Struck


def test_the_first_to_ask_is_struck_anywhere(slow: NotingStore, gate: CallGate) -> None:
    """Wherever a signal handler ends the first who asks, the others are told, and those who come later too (I8)."""

    async def passes() -> None:
        async with gate.call("Balance"):
            pass

    async def main(strike: _StrikeAt) -> None:
        sys.setprofile(strike)
        try:
            crowd = [asyncio.ensure_future(passes()) for _ in range(5)]
            _, waiting = await asyncio.wait(crowd[:1], timeout=GUARD)
            crowd.append(asyncio.ensure_future(passes()))
            waiting |= (await asyncio.wait(crowd, timeout=GUARD))[1]
        finally:
            sys.setprofile(None)
        for task in waiting:
            task.cancel()
        ended = await asyncio.gather(*crowd, return_exceptions=True)
        assert not waiting
        assert [*map(type, ended[1:])] == 5 * [type(None)]

    number, struck = 0, True
    while struck:
        number += 1
        strike = _StrikeAt(number)
        for session in slow._presence._sessions:
            session._path.unlink(missing_ok=True)  # so that the next is begun anew
        asyncio.run(main(strike))
        struck = not strike.left
    assert number > 3
    assert nothing_left(slow, gate)
