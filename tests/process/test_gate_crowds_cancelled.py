"""Tasks that wait together, of which one is cancelled or refused: the others go on, or are told what concerns all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from persistent_nonce import CallGate, LockedOutError
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    ConfigurationError,
    KeyClosedError,
    StoreUnavailableError,
)
from persistent_nonce.state import Changed, KeyState
from tests.support import crowds
from tests.support.callers import GUARD, until
from tests.support.crowds import (
    LOOPS,
    RUN,
    NotingStore,
    cancelled_at,
    nothing_left,
    queued,
)
from tests.support.workers import KEY

store, gate = crowds.store, crowds.gate


@LOOPS
@pytest.mark.parametrize("place", [0, 1])
def test_cancelled_at_every_await(
    store: NotingStore, gate: CallGate, loop: str, place: int
) -> None:
    """Wherever a task is cancelled, first in line or behind, nothing of it is left and the next has its turn (A19)."""

    async def passage() -> None:
        async with gate.call("Balance"):
            await asyncio.sleep(0)

    async def victim(number: int) -> int:
        return await cancelled_at(number, passage())

    async def is_cancelled(number: int) -> bool:
        async with gate.call("Ledgers"):
            before = [asyncio.create_task(passage()) for _ in range(place)]
            await queued(store, gate, place)
            task = asyncio.create_task(victim(number))
            while len(store.read(gate.key).queue) == place and not task.done():  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0)
            after = [asyncio.create_task(passage())]
            await queued(store, gate, place + 1)
            await asyncio.sleep(0.005)  # the first in line looks meanwhile
        await asyncio.wait_for(asyncio.gather(*before, *after), GUARD)
        (end,) = await asyncio.gather(task, return_exceptions=True)
        assert nothing_left(store, gate), f"cancelled at await {number}"
        if isinstance(end, asyncio.CancelledError):
            return True
        assert isinstance(end, int), end
        return end >= number

    async def main() -> int:
        number = 1
        while await is_cancelled(number):
            number += 1
        return number

    assert RUN[loop](main()) > 5
    assert not any(record.outcome == "in_flight" for record in store.calls())


def test_a_notice_is_passed_on(store: NotingStore, gate: CallGate) -> None:
    """Whoever is told that it is its turn, and is cancelled before it can see to that, has the next one told (I8)."""

    async def passage() -> None:
        async with gate.call("Balance"):
            pass

    async def main() -> None:
        for cancelled in (1, 2, 5):
            holder = gate.call("Ledgers")
            await holder.__aenter__()
            crowd = [asyncio.create_task(passage()) for _ in range(6)]
            await queued(store, gate, 6)
            await asyncio.sleep(0.01)
            await holder.__aexit__(None, None, None)
            for task in crowd[:cancelled]:  # the loop has not turned since it was told
                task.cancel()
            await asyncio.wait_for(
                asyncio.gather(*crowd, return_exceptions=True), GUARD
            )
            assert nothing_left(store, gate)

    asyncio.run(main())


def test_who_looks_leaves_in_trouble(
    store: NotingStore, gate: CallGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the first in line is cancelled and cannot even be taken out, the next one looks for all from then on (I8)."""
    update = store.update

    def fail(*arguments: Any, **options: Any) -> KeyState:
        monkeypatch.setattr(store, "update", update)
        raise StoreUnavailableError("for a test")

    async def passage() -> None:
        async with gate.call("Balance"):
            pass

    async def main() -> None:
        with NotingStore(store.path) as theirs:
            holder = CallGate(theirs, KEY, min_interval=0.0, unit="ns").call("Ledgers")
            await asyncio.to_thread(holder.__enter__)
            crowd = []
            for count in (1, 2, 3):
                crowd.append(asyncio.create_task(passage()))
                await queued(store, gate, count)
            monkeypatch.setattr(store, "update", fail)
            crowd[0].cancel()
            await asyncio.wait(crowd[:1])
            holder.__exit__(None, None, None)
            await asyncio.wait_for(asyncio.gather(*crowd[1:]), GUARD)
            await asyncio.to_thread(until, lambda: nothing_left(store, gate), "the end")

    asyncio.run(main())


@pytest.mark.parametrize("what", ["closed", "locked out"])
def test_all_are_told_of_what_concerns_all(
    store: NotingStore, gate: CallGate, what: str
) -> None:
    """A key that is closed, or locked for longer than they may wait, ends the wait of every task at once (I8)."""
    told = KeyClosedError if what == "closed" else LockedOutError

    async def passage(allowed: float = 600) -> None:
        async with gate.call("Balance", timeout=allowed):
            pass

    def strike() -> None:
        store.update(
            gate.key,
            lambda state, now: Changed(
                state._replace(closed=True, diagnosis="for a test")
                if what == "closed"
                else state._replace(
                    set_at=now.wall, not_before=now.wall + 10_000 * SECOND
                )
            ),
        )

    async def main() -> list[BaseException | None]:
        async with gate.call("Ledgers"):
            first = asyncio.create_task(passage(1e6))  # who looks may wait for it
            await queued(store, gate, 1)
            crowd = [asyncio.create_task(passage()) for _ in range(60)]
            await queued(store, gate, 61)
            await asyncio.to_thread(strike)
            waits = asyncio.gather(*crowd, return_exceptions=True)
            ends: list[BaseException | None] = await asyncio.wait_for(waits, GUARD)
            first.cancel()
            await asyncio.wait({first})
            return ends

    assert {type(end) for end in asyncio.run(main())} == {told}
    assert nothing_left(store, gate)


def test_who_asks_for_something_else_is_refused_alone(
    store: NotingStore, gate: CallGate
) -> None:
    """Of tasks that come together, those whose settings contradict the key's are refused, and only those."""
    other = CallGate(store, KEY, min_interval=0.5, timeout=GUARD)

    async def passage(number: int) -> None:
        async with (other if number % 3 == 1 else gate).call("Balance"):
            pass

    async def main() -> list[object]:
        return await asyncio.gather(
            *(passage(number) for number in range(60)), return_exceptions=True
        )

    for number, end in enumerate(asyncio.run(main())):
        refused = isinstance(end, ConfigurationError)
        assert refused if number % 3 == 1 else end is None, (number, end)
    assert nothing_left(store, gate)
