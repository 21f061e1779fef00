"""Many tasks with one client of python-kraken-sdk, some of them cancelled: order and record stay whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.adapters import base
from persistent_nonce.adapters.kraken_sdk import SpotAsyncClient
from persistent_nonce.testing import (
    DrippingReply,
    KrakenSimulator,
    LostReply,
)
from tests.support import sdk, trading
from tests.support.sdk import Desk
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD, Aside, outcomes

BALANCE: Final = "/0/private/Balance"
ORDER: Final = "/0/private/AddOrder"


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces everything, 200 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=200, latency=0) as simulator:
        yield simulator


account, store, desk = trading.account, trading.store, sdk.desk

#: Every test here is of tasks.
pytestmark = pytest.mark.parametrize("desk", ["async"], indirect=True)


@asynccontextmanager
async def connected(desk: Desk, **options: Any) -> AsyncIterator[SpotAsyncClient]:
    """Make a client on the running loop."""
    given = {"store": desk.store, "gate_timeout": 3600.0 * 24, **options}
    client = SpotAsyncClient(*desk.account, desk.exchange.url, **given)
    try:
        yield client
    finally:
        await client.close()


async def until(true: Callable[[], object], what: str) -> None:
    """Wait until `true()`, looking often, without holding the loop up."""
    await asyncio.to_thread(trading.until, true, what)


def queue(desk: Desk) -> int:
    """Return how many calls of the account wait."""
    return len(desk.store.read(desk.key).queue)


def test_tasks_are_served_in_their_order(desk: Desk) -> None:
    """A hundred tasks with one client are served one at a time, first come first served (I2, I5, I7)."""
    served: list[int] = []

    async def trade(client: SpotAsyncClient, number: int) -> None:
        assert await client.request("POST", BALANCE)
        served.append(number)

    async def main() -> None:
        async with connected(desk) as client:
            await asyncio.gather(*(trade(client, number) for number in range(100)))

    asyncio.run(main())
    assert sorted(served) == list(range(100))
    assert desk.outcomes == [("Balance", "ok")] * 100
    desk.check_order()


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_queue(desk: Desk) -> None:
    """Its turn goes to the next, nothing of it is sent or recorded, and the client goes on (I5)."""

    async def main() -> None:
        async with connected(desk) as client:
            with CallGate(desk.store, desk.account.key).call("holds the key") as held:
                waiting = [
                    asyncio.create_task(client.request("POST", ORDER, dict(LIMIT)))
                    for _ in range(3)
                ]
                await until(lambda: queue(desk) == 3, "all wait")
                waiting[1].cancel()
                await until(lambda: queue(desk) == 2, "the cancelled one has left")
                held.not_sent()
            told = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(told[1], asyncio.CancelledError)
            assert told[0]["txid"] != told[2]["txid"]  # type: ignore[index]  # neither is an error
            await client.request("POST", BALANCE)

    asyncio.run(main())
    assert queue(desk) == 0
    assert [o for m, o in desk.outcomes if m == "AddOrder"] == ["ok", "ok"]
    assert desk.orders == 2
    desk.check_order()


@pytest.mark.parametrize(
    "fault", [LostReply(after=3600), DrippingReply(interval=0.05)], ids=str
)
def test_a_task_that_is_cancelled_in_flight_leaves_a_doubt(
    fault: LostReply | DrippingReply, desk: Desk
) -> None:
    """Its call is in doubt, its connection is cut, and the next one has its turn at once (I5)."""
    desk.exchange.inject(fault)

    async def main() -> None:
        async with connected(desk) as client:
            order = asyncio.create_task(client.request("POST", ORDER, dict(LIMIT)))
            await until(lambda: desk.stats.requests, "the request")
            order.cancel()
            with pytest.raises(asyncio.CancelledError):
                await order
            assert desk.store.read(desk.key).running is None
            assert await client.request("POST", BALANCE)
            doubts = [doubt.method for doubt in await client.in_doubt()]
            assert doubts == ["AddOrder"]

    asyncio.run(main())
    assert desk.outcomes == [("AddOrder", "unknown"), ("Balance", "ok")]
    assert [a.completed for a in desk.stats.arrivals] == [False, True]
    assert desk.stats.overlaps == 0


def test_cancelled_at_random_moments_nothing_is_left_behind(desk: Desk) -> None:
    """Wherever its cancellation finds a task, the queue ends empty, and what arrived is on record (I1, I5)."""

    async def main() -> None:
        async with connected(desk) as client:
            tasks = [
                asyncio.create_task(client.request("POST", BALANCE)) for _ in range(60)
            ]
            for number, task in enumerate(tasks):
                if number % 3:
                    await asyncio.sleep(0.003)
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await client.request("POST", BALANCE)

    asyncio.run(main())
    state = desk.store.read(desk.key)
    assert (state.queue, state.running) == ((), None)
    assert desk.stats.refused_nonce == 0
    told = {call.nonce: call.outcome for call in desk.store.calls(desk.key)}
    arrived = [arrival.nonce or 0 for arrival in desk.stats.arrivals]
    assert sorted(set(arrived)) == arrived
    assert {told[nonce] for nonce in arrived} <= {"ok", "unknown"}
    left = [nonce for nonce, outcome in told.items() if outcome != "not_sent"]
    assert set(arrived) <= set(left)


def test_threads_and_tasks_share_the_order(desk: Desk) -> None:
    """A client that blocks and one that does not, in one process, never have two calls in flight (I2, I5)."""
    with replace(desk, kind="sync").sdk() as asker:

        def trade() -> None:
            for _ in range(10):
                assert asker.ask("Balance")

        async def main() -> None:
            async with connected(desk) as client:
                for _ in range(10):
                    assert await client.request("POST", BALANCE)

        threads = [Aside(trade), Aside(lambda: asyncio.run(main()))]
        for thread in threads:
            thread.result()
    assert desk.outcomes == [("Balance", "ok")] * 20
    desk.check_order()


@pytest.mark.parametrize("first", ["request", "in_doubt", "reconcile", "verify"])
def test_the_default_store_is_opened_beside_the_loop(
    first: str, desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever comes first opens it in another thread than the loop's, once; then it is shared."""
    opened: list[int] = []

    def opening() -> Any:
        opened.append(threading.get_ident())
        return SQLiteStore(tmp_path / "default.db", clock=desk.exchange.clock)

    monkeypatch.setattr(base, "_shared", [])
    monkeypatch.setattr(base, "open_store", opening)

    async def main() -> None:
        async with connected(desk, store=None) as client:
            call = getattr(client, first)
            args = ("POST", BALANCE) if first == "request" else ()
            await asyncio.wait_for(call(*args), GUARD)
            await client.request("POST", BALANCE)
        assert threading.get_ident() not in opened

    asyncio.run(main())
    assert len(opened) == 1
    (shared,) = base._shared
    assert outcomes(shared, desk.account.key)[-1] == ("Balance", "ok")
    shared.close()
