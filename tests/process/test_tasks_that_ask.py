"""Tasks that ask for their process's session together: what becomes of the others when the first one is ended."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from persistent_nonce import CallGate
from persistent_nonce.stores.sessions import FileSession
from tests.support import crowds
from tests.support.crowds import LOOPS, RUN, NotingStore, nothing_left

store, gate = crowds.store, crowds.gate

TASKS = 40


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
