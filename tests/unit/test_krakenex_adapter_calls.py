"""A call of the drop-in krakenex client is as krakenex makes it, and the gate is told what kind it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from persistent_nonce import gate, kraken
from persistent_nonce.adapters import limits
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.stores.memory import MemoryStore
from tests.support import wired
from tests.support.wire import KEY, REFUSED, SECRET, Post, Wire, ok
from tests.support.wired import Forbidden, Spied, connect, outcomes

clock, store = wired.clock, wired.store
wire, client = wired.wire, wired.client


# --- what is left as it was


def test_public_calls_never_touch_the_store(wire: Wire) -> None:
    """A public call is krakenex's own, with a store that fails on any use."""
    client = connect(API(KEY, SECRET, store=Forbidden()), wire)
    assert client.query_public("Time")["result"] == {"unixtime": 1}  # type: ignore[no-untyped-call]  # krakenex has no annotations
    assert len(wire.gets) == 1


@pytest.mark.parametrize("given", [{}, {"pair": "XBTUSD"}, {"nonce": 7, "pair": "X"}])
def test_the_caller_s_dict_is_untouched(
    given: dict[str, Any], client: API, wire: Wire
) -> None:
    """The nonce goes into a copy of the caller's dict, also when the call is tried again."""
    wire.answers = [REFUSED, ok()]
    data = dict(given)
    client.query_private("Balance", data)
    assert data == given
    own, verifying = wire.posts[:2], wire.posts[2:]
    assert all(post.data == given | {"nonce": post.nonce} for post in own)
    assert [post.method for post in verifying] == ["GetApiKeyInfo"]


def test_an_overridden_query_still_works(store: Spied, wire: Wire) -> None:
    """A subclass may put its own `_query` around ours, or in place of it."""
    paths = []

    class Around(API):
        def _query(self, urlpath: str, *args: Any, **kwargs: Any) -> Any:
            paths.append(urlpath)
            return super()._query(urlpath, *args, **kwargs)

    class Instead(API):
        def _query(self, urlpath: str, data: Any, *_: Any, **__: Any) -> Any:
            return {"error": [], "result": data["nonce"]}

    connect(Around(KEY, SECRET, store=store), wire).query_private("Balance")
    told = Instead(KEY, SECRET, store=store).query_private("Balance")["result"]
    assert paths == ["/0/private/Balance"]
    assert told > wire.nonces[0]
    assert outcomes(store) == ["ok", "ok"]


def test_a_query_that_sends_again_is_seen(store: Spied, wire: Wire) -> None:
    """A `_query` of the program's own that calls ours twice may have had the first sending executed."""

    class Twice(API):
        def _query(self, urlpath: str, *args: Any, **kwargs: Any) -> Any:
            super()._query(urlpath, *args, **kwargs)
            return super()._query(urlpath, *args, **kwargs)

    def told(answer: Any) -> Callable[[Post], Any]:
        def one(_: Post) -> Any:
            limits._of_thread.limit.uses(SimpleNamespace(sock=None))
            return answer

        return one

    wire.answers = [told(ok()), told(REFUSED)]
    client = connect(Twice(KEY, SECRET, store=store), wire)
    assert client.query_private("AddOrder") == REFUSED
    assert outcomes(store) == ["unknown"]
    assert len(wire.posts) == 2


def test_each_thread_has_its_own_response(client: API) -> None:
    """Krakenex reads the reply from `response`, which another thread of a shared object must not change."""
    client.response = "mine"
    other = threading.Thread(target=setattr, args=(client, "response", "another's"))
    other.start()
    other.join()
    assert client.response == "mine"


def test_the_reply_is_read_and_kept_as_krakenex_does(client: API, wire: Wire) -> None:
    """`json_options` and `response` work as in krakenex."""
    wire.answers = ['{"error": [], "result": 0.1}']
    client.json_options(parse_float=Decimal)  # type: ignore[no-untyped-call]  # krakenex has no annotations
    assert client.query_private("Balance")["result"] == Decimal("0.1")
    assert client.response is not None
    assert client.response.status_code == 200


def test_one_client_serves_many_threads(wire: Wire) -> None:
    """Each thread gets its own reply; one call is in flight at a time, in the order of the nonces (I2, I5)."""
    flying, seen = threading.Lock(), []

    def answer(post: Post) -> dict[str, object]:
        assert flying.acquire(blocking=False), "two in flight"
        seen.append(post.nonce)
        flying.release()
        return ok(post.data["mine"])

    wire.answers = [answer] * 40
    client = API(KEY, SECRET, store=MemoryStore(), min_interval=0, tier="pro")
    connect(client, wire)

    def work(thread: int) -> list[Any]:
        names = [f"{thread}.{number}" for number in range(5)]
        replies = [client.query_private("AddOrder", {"mine": n}) for n in names]
        return [names, [told["result"] for told in replies]]

    with ThreadPoolExecutor(8) as threads:
        for names, told in threads.map(work, range(8)):
            assert told == names
    assert len(seen) == 40
    assert seen == sorted(set(seen))


# --- what the gate is told


@pytest.mark.parametrize(
    "method",
    ["CancelOrder", "CancelAll", "AddOrder", "EditOrder", "Balance", "Ledgers", "New"],
)
def test_cost_priority_and_durability_are_the_method_s(
    method: str, client: API, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate is told of each method what `kraken` knows of it."""
    told: dict[str, Any] = {}
    original = gate.CallGate.attempts

    def attempts(self: Any, method: str, **options: Any) -> Any:
        told.update(options)
        return original(self, method, **options)

    monkeypatch.setattr(gate.CallGate, "attempts", attempts)
    client.query_private(method)
    assert told == {
        "cost": kraken.cost(method),
        "priority": kraken.priority(method),
        "durable": kraken.changes(method),
        "reference": "",
        "timeout": None,
    }
