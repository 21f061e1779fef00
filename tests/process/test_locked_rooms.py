"""A task that is told that the store is locked, while another one waits for the store in its room."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from persistent_nonce import CallGate
from persistent_nonce.errors import StoreTimeoutError
from persistent_nonce.state import KeyState
from tests.support import crowds
from tests.support.callers import GUARD
from tests.support.crowds import LOOPS, RUN, NotingStore, nothing_left, queued

store, gate = crowds.store, crowds.gate


@LOOPS
def test_who_is_refused_does_not_wait_for_another(
    store: NotingStore, gate: CallGate, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that found the store locked is refused at once, though another one of its room waits for the lock (I8)."""
    waits, goes_on = threading.Event(), threading.Event()
    update = store.update

    def slow(*arguments: Any, **named: Any) -> KeyState:
        waits.set()
        assert goes_on.wait(GUARD)
        return update(*arguments, **named)

    def locked(_: str) -> KeyState:
        raise StoreTimeoutError("locked", "wait")

    async def passes() -> None:
        async with gate.call("Balance"):
            pass

    async def main() -> bool:
        async with gate.call("Ledgers"):
            refused = asyncio.ensure_future(passes())
            await queued(store, gate, 1)
            with monkeypatch.context() as patched:
                patched.setattr(store, "update", slow)
                other = asyncio.ensure_future(passes())
                assert await asyncio.to_thread(waits.wait, GUARD)
                patched.setattr(store, "read", locked)
                done, _ = await asyncio.wait([refused], timeout=GUARD)
                goes_on.set()
            with pytest.raises(StoreTimeoutError):
                await refused
        await other
        return bool(done)

    assert RUN[loop](main())
    assert nothing_left(store, gate)
