"""What an account asks of a scripted exchange, what it settles by the answers, and what it leaves in doubt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce.adapters.account import Account, Answer
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import ExchangeError, StoreUnavailableError
from persistent_nonce.nonces import issue
from persistent_nonce.state import CallRecord, Changed, KeyState, Running
from persistent_nonce.steps import run
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.memory import MemorySession, MemoryStore
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock
from tests.support.states import KEY, recorded

#: A process that has ended.
GONE: Final = "0-0-0-deadbeef"

NONE_OPEN: Final[dict[str, Any]] = {"open": {}}
NONE_CLOSED: Final[dict[str, Any]] = {"closed": {}, "count": 0}


class Exchange:
    """Answers each method as scripted, the last answer again and again; notes what it was asked."""

    def __init__(self, clock: StillClock) -> None:
        self.clock = clock
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.replies: dict[str, list[Any]] = {}
        self.ahead = 30  # seconds of its clock before ours
        self.thinks = 0.0  # seconds, before it looks at its clock and after
        self.nonce = 7
        self.says(OpenOrders=NONE_OPEN, ClosedOrders=NONE_CLOSED)

    def says(self, **results: Any) -> None:
        """Answer with these results; several of a method are given as a list."""
        for method, result in results.items():
            several = result if isinstance(result, list) else [result]
            self.replies[method] = [{"error": [], "result": r} for r in several]

    async def ask(self, method: str, data: dict[str, Any]) -> Answer:
        """Answer a question."""
        self.asked.append((method, dict(data)))
        scripted = self.replies[method]
        reply = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        if isinstance(reply, BaseException):
            raise reply
        return Answer(reply() if callable(reply) else reply, self.nonce)

    async def time(self) -> float:
        """Return this clock's time, and take a while for it."""
        self.clock.advance(self.thinks)
        now = self.clock.wall() / SECOND + self.ahead
        self.clock.advance(self.thinks)
        return now

    def order(self, seconds_ago: float, **fields: Any) -> dict[str, Any]:
        """Return an order opened so long ago."""
        opened = self.clock.wall() / SECOND + self.ahead - seconds_ago
        return {"opentm": opened, "cl_ord_id": "A1", "userref": None} | fields


@pytest.fixture
def clock() -> StillClock:
    """Return a clock in the test's hands."""
    return StillClock()


@pytest.fixture
def store(clock: StillClock) -> MemoryStore:
    """Return a store that knows of a process that has ended."""
    store = MemoryStore(clock=clock)
    store.ended.add(GONE)
    return store


@pytest.fixture(params=["memory", "sqlite"])
def either(
    request: pytest.FixtureRequest, clock: StillClock, tmp_path: Path
) -> Iterator[Store]:
    """Yield a store of each kind."""
    store: Store = MemoryStore(clock=clock)
    if request.param == "sqlite":
        store = SQLiteStore(tmp_path / "nonces.db", clock=clock)
    yield store
    store.close()


@pytest.fixture
def exchange(clock: StillClock) -> Exchange:
    """Return an exchange that has no orders."""
    return Exchange(clock)


def account(store: Store, exchange: Exchange) -> Account:
    """Return the account of the tests' key."""
    return Account(store, KEY, exchange.ask, exchange.time)


def put(store: Store, id: str = "a", **fields: Any) -> CallRecord:
    """Have a call on record that began now; fields of its record go as they are."""
    made = recorded(id, now=store.now())._replace(**{"session": GONE} | fields)
    store.update(KEY, lambda state, now: Changed(state, (made,)))
    return made


def on_record(store: Store) -> dict[str, str]:
    """Return how the calls of the key ended, by their ids."""
    return {call.id: call.outcome for call in store.calls(KEY, 2_000)}


def told(account: Account) -> dict[str, str]:
    """Reconcile, and return what was told of each call."""
    return {call.id: call.outcome for call in run(account.reconcile())}


def page(*numbers: int, count: int, make: Callable[[], dict[str, Any]]) -> Any:
    """Return a page of closed orders with these numbers."""
    return {"closed": {f"O{number}": make() for number in numbers}, "count": count}


# --- executed, not executed, or neither


def test_no_doubt_no_question(either: Store, exchange: Exchange) -> None:
    """Where nothing is in doubt, the exchange is not asked."""
    put(either, "ok", outcome="ok", serial=1)
    assert run(account(either, exchange).in_doubt()) == []
    assert run(account(either, exchange).reconcile()) == []
    assert exchange.asked == []


@pytest.mark.parametrize("where", ["open", "closed"])
def test_an_order_that_is_there(either: Store, exchange: Exchange, where: str) -> None:
    """An open or a closed order with the id of the call settles it as executed, for good, and nothing is sent again."""
    put(either)
    orders = {"O1": exchange.order(0)}
    if where == "open":
        exchange.says(OpenOrders={"open": orders})
    else:
        exchange.says(ClosedOrders={"closed": orders, "count": 1})
    assert told(account(either, exchange)) == {"a": "executed"}
    assert on_record(either) == {"a": "executed"}
    asked = ["OpenOrders"] if where == "open" else ["OpenOrders", "ClosedOrders"]
    assert [method for method, _ in exchange.asked] == asked
    assert run(account(either, exchange).in_doubt()) == []
    (call,) = either.calls(KEY)
    assert (call.serial, either.read(KEY).settled) == (1, 1)


def test_an_order_that_is_not_there(
    either: Store, exchange: Exchange, clock: StillClock
) -> None:
    """Without an order, the call is settled two minutes after its end, and told as it is until then."""
    put(either, took=60 * SECOND)
    for seconds, outcome in ((60, "unknown"), (119, "unknown"), (1, "not_executed")):
        clock.advance(seconds)
        assert told(account(either, exchange)) == {"a": outcome}
        assert on_record(either) == {"a": outcome}


def test_in_doubt_is_told_oldest_first(either: Store, exchange: Exchange) -> None:
    """Calls in doubt are told in the order of their nonces, without a question."""
    put(either, "b", nonce=6, reference="userref=-7")
    put(either, "a", nonce=5)
    first, second = run(account(either, exchange).in_doubt())
    assert (first.id, first.cl_ord_id, first.userref) == ("a", "A1", None)
    assert (second.id, second.cl_ord_id, second.userref) == ("b", None, -7)
    assert exchange.asked == []


@pytest.mark.parametrize("reference", ["cl_ord_id=A1", "userref=-7"])
def test_what_is_asked(store: MemoryStore, exchange: Exchange, reference: str) -> None:
    """Both lists are asked for the id, the closed ones from ten seconds before the call by the exchange's clock."""
    put(store, reference=reference)
    run(account(store, exchange).reconcile())
    name, _, value = reference.partition("=")
    start = 1_700_000_000 + 30 - 10
    assert exchange.asked == [
        ("OpenOrders", {name: value}),
        ("ClosedOrders", {name: value, "start": start, "ofs": 0}),
    ]


def test_a_slow_answer_hides_no_order(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """However long the exchange takes to tell its time, an order opened at the call's start is seen."""
    put(store)
    clock.advance(600)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(600)}})
    exchange.thinks = 60.0
    assert told(account(store, exchange)) == {"a": "executed"}


def test_an_order_of_before_is_not_ours(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """An order with the same id from before the call does not make it executed."""
    exchange.says(OpenOrders={"open": {"O1": exchange.order(11)}})
    put(store)
    assert told(account(store, exchange)) == {"a": "unknown"}
    clock.advance(120)
    assert told(account(store, exchange)) == {"a": "not_executed"}


def test_a_clock_set_back_over_a_reboot_hides_no_order(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """An order of a call that was dated an hour ahead, before a reboot put the clock right, is not missed."""
    clock.now += 3_600 * SECOND
    put(store)
    clock.now -= 3_600 * SECOND
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    clock.advance(5_400)
    clock.up, clock.name = 600 * SECOND, "second boot"
    assert told(account(store, exchange)) == {"a": "executed"}


def test_two_calls_of_one_id(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """One order for two calls leaves both in doubt, two settle both, none says that neither was executed."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6)
    one, two = {"O1": exchange.order(0)}, {"O2": exchange.order(0)}
    exchange.says(OpenOrders={"open": one})
    assert told(account(store, exchange)) == {"a": "unknown", "b": "unknown"}
    clock.advance(3_600)
    assert told(account(store, exchange)) == {"a": "unknown", "b": "unknown"}
    exchange.says(OpenOrders={"open": one | two})
    assert told(account(store, exchange)) == {"a": "executed", "b": "executed"}


def test_a_later_call_of_the_same_id_that_was_executed(
    store: MemoryStore, exchange: Exchange
) -> None:
    """The order of a later call with the same id is not taken for that of the one in doubt."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6, outcome="ok", serial=1)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    assert told(account(store, exchange)) == {"a": "unknown"}


def test_forgotten_calls_may_have_placed_it(
    store: MemoryStore, exchange: Exchange
) -> None:
    """With the records of later calls dropped, an order of a userref that many calls have settles nothing."""
    put(store, "a", reference="userref=7")
    put(store, "later", nonce=6, method="Balance", outcome="ok", serial=5_000)
    orders = {"O1": exchange.order(0, userref=7)}
    exchange.says(OpenOrders={"open": orders})
    assert told(account(store, exchange)) == {"a": "unknown"}


# --- what cannot be, or need not be, looked up


@pytest.mark.parametrize(
    "fields",
    [
        {"reference": ""},
        {"method": "Withdraw"},
        {"method": "EditOrder"},
        {"method": "CancelOrder"},
    ],
    ids=str,
)
def test_a_call_that_cannot_be_looked_up_stays(
    store: MemoryStore, exchange: Exchange, clock: StillClock, fields: dict[str, Any]
) -> None:
    """A call without a reference, or that placed no order, stays in doubt for ever, unasked."""
    put(store, **fields)
    clock.advance(86_400)
    assert told(account(store, exchange)) == {"a": "unknown"}
    assert exchange.asked == []


def test_a_call_that_reads_is_settled(either: Store, exchange: Exchange) -> None:
    """A call that reads changed nothing, so it is settled at once and unasked."""
    put(either, method="Balance", reference="", outcome="interrupted", took=None)
    assert told(account(either, exchange)) == {"a": "not_executed"}
    assert on_record(either) == {"a": "not_executed"}
    assert exchange.asked == []


# --- processes


def test_a_living_process_s_call_is_left_alone(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """A call whose process lives may be sent yet, however old it is: it was only stopped."""
    other = MemorySession(store)
    put(store, took=None)
    put(store, "b", nonce=6, session=other.name, took=None)
    clock.advance(86_400)
    told(account(store, exchange))
    clock.advance(120)
    assert told(account(store, exchange)) == {"a": "not_executed", "b": "unknown"}
    assert [data[1]["cl_ord_id"] for data in exchange.asked] == ["A1"] * 4
    other.end()
    assert told(account(store, exchange)) == {"b": "unknown"}
    clock.advance(119)
    assert told(account(store, exchange)) == {"b": "unknown"}
    clock.advance(1)
    assert told(account(store, exchange)) == {"b": "not_executed"}


def test_a_living_process_s_order_is_not_even_asked_for(
    store: MemoryStore, exchange: Exchange
) -> None:
    """While the call may still end by itself, an order of it settles nothing."""
    put(store, session=MemorySession(store).name, took=None)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    assert told(account(store, exchange)) == {"a": "unknown"}
    assert exchange.asked == []


def test_a_call_that_its_living_process_saw_end(
    store: MemoryStore, exchange: Exchange, clock: StillClock
) -> None:
    """A call whose end is on record cannot be sent any more, so it is settled while its process lives."""
    put(store, session=MemorySession(store).name, took=SECOND)
    clock.advance(121)
    assert told(account(store, exchange)) == {"a": "not_executed"}


@pytest.mark.parametrize("live", [True, False])
def test_calls_of_the_own_process(
    store: MemoryStore, exchange: Exchange, clock: StillClock, live: bool
) -> None:
    """A call of the own process that still goes on is left alone, and a left-over of it is settled."""
    session = store.session()
    if live:
        session.live.add("a")
    put(store, session=session.name, took=None)
    told(account(store, exchange))
    clock.advance(120)
    expected = "unknown" if live else "not_executed"
    assert told(account(store, exchange)) == {"a": expected}


def test_two_minutes_from_when_the_process_was_found_gone(
    either: Store, exchange: Exchange, clock: StillClock
) -> None:
    """However long ago a lost call began, it may have been sent just before: the first look only notes its end."""
    put(either, session=either.session().name, took=None)
    clock.advance(3_600)
    (call,) = run(account(either, exchange).in_doubt())
    assert call.outcome == "unknown"
    assert [c.took for c in either.calls(KEY)] == [3_600 * SECOND]
    clock.advance(119)
    assert told(account(either, exchange)) == {"a": "unknown"}
    clock.advance(1)
    assert told(account(either, exchange)) == {"a": "not_executed"}


@pytest.mark.parametrize("dead", [True, False])
def test_a_running_call_of_a_dead_process_is_in_doubt(
    store: MemoryStore, exchange: Exchange, dead: bool
) -> None:
    """Who asks what is in doubt is told of a call whose process died with it, and not of one that runs."""
    other = MemorySession(store)

    def start(state: KeyState, now: Any) -> Changed:
        running = Running(
            id="lost",
            session=other.name,
            method="AddOrder",
            cost=0,
            nonce=9,
            at=now.wall,
            since=now.mono,
            until=now.mono + 300 * SECOND,
            waited=0,
            reference="cl_ord_id=A1",
        )
        return Changed(state._replace(running=running))

    store.update(KEY, start)
    if dead:
        other.end()
    doubts = run(account(store, exchange).in_doubt())
    assert [(d.id, d.outcome) for d in doubts] == [("lost", "interrupted")] * dead
    assert (store.read(KEY).running is None) == dead


# --- the lists of orders


def test_all_pages_are_read(store: MemoryStore, exchange: Exchange) -> None:
    """Closed orders come in pages; an order on the last one is found."""
    put(store)
    foreign = {"cl_ord_id": "other"}
    exchange.says(
        ClosedOrders=[
            page(*range(50), count=101, make=lambda: exchange.order(0, **foreign)),
            page(*range(50, 100), count=101, make=lambda: exchange.order(0, **foreign)),
            page(100, count=101, make=lambda: exchange.order(0)),
        ]
    )
    assert told(account(store, exchange)) == {"a": "executed"}
    offsets = [data["ofs"] for method, data in exchange.asked[1:]]
    assert offsets == [0, 50, 100]


def test_pages_that_move(store: MemoryStore, exchange: Exchange) -> None:
    """Orders closed between two pages push the others back by as many: a page of known ones is not the last."""
    put(store)
    exchange.says(
        ClosedOrders=[
            page(*range(50), count=60, make=lambda: exchange.order(0, cl_ord_id="x")),
            page(*range(50), count=110, make=lambda: exchange.order(0, cl_ord_id="x")),
            page(*range(50, 60), count=110, make=lambda: exchange.order(0)),
        ]
    )
    assert told(account(store, exchange)) == {"a": "executed"}


def test_an_empty_page_is_the_last(store: MemoryStore, exchange: Exchange) -> None:
    """A count that no page fills does not make the questions endless, and does not tell that an order is nowhere."""
    put(store)
    empty: dict[str, Any] = {"closed": {}, "count": 7}
    exchange.says(ClosedOrders=empty)
    with pytest.raises(ExchangeError, match="0 of 7 orders"):
        run(account(store, exchange).reconcile())
    assert on_record(store) == {"a": "unknown"}
    assert len(exchange.asked) == 2


def test_an_order_in_both_lists_counts_once(
    store: MemoryStore, exchange: Exchange
) -> None:
    """An order that is closed between the two questions is one order."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6)
    orders = {"O1": exchange.order(0)}
    exchange.says(
        OpenOrders={"open": orders}, ClosedOrders={"closed": orders, "count": 1}
    )
    assert set(told(account(store, exchange)).values()) == {"unknown"}


@pytest.mark.parametrize(
    ("reference", "fields"),
    [
        ("cl_ord_id=A1", {"cl_ord_id": "A2"}),
        ("cl_ord_id=A1", {"cl_ord_id": "a1"}),
        ("cl_ord_id=A1", {"cl_ord_id": None}),
        ("cl_ord_id=None", {"cl_ord_id": None}),
        ("cl_ord_id=a-1-2", {"cl_ord_id": "a-12"}),
        ("userref=7", {"userref": -7}),
        ("userref=7", {"userref": 77}),
        ("userref=7", {"userref": None, "cl_ord_id": "7"}),
    ],
)
def test_orders_of_other_ids_are_ignored(
    store: MemoryStore,
    exchange: Exchange,
    clock: StillClock,
    reference: str,
    fields: dict[str, Any],
) -> None:
    """An exchange that tells more orders than it was asked for settles nothing by them."""
    put(store, reference=reference)
    clock.advance(120)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(120, **fields)}})
    assert told(account(store, exchange)) == {"a": "not_executed"}


@pytest.mark.parametrize(
    ("reference", "fields"),
    [
        ("userref=7", {"userref": 7}),
        ("userref=7", {"userref": "7"}),
        (
            "cl_ord_id=6D1B345E-2821-40E2-AD83-4ECB18A06876",
            {"cl_ord_id": "6d1b345e282140e2ad834ecb18a06876"},
        ),
    ],
)
def test_an_id_in_another_form(
    store: MemoryStore, exchange: Exchange, reference: str, fields: dict[str, Any]
) -> None:
    """A number as text, or a UUID in other letters, is the same id."""
    put(store, reference=reference)
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0, **fields)}})
    assert told(account(store, exchange)) == {"a": "executed"}


# --- errors


@pytest.mark.parametrize("method", ["OpenOrders", "ClosedOrders"])
@pytest.mark.parametrize(
    "reply",
    [
        {"error": ["EGeneral:Permission denied"]},
        {"error": ["EService:Unavailable"], "result": {"open": {}, "closed": {}}},
        {"error": ["EAPI:Invalid nonce"]},
        {"error": []},
        {"error": [], "result": None},
        {"error": [], "result": []},
        {"error": [], "result": {"count": 0}},
        {"error": [], "result": {"open": 7, "closed": 7, "count": 0}},
        {"error": "none", "result": {"open": {}, "closed": {}, "count": 0}},
        {"error": [7], "result": {"open": {}, "closed": {}, "count": 0}},
        {"result": {"open": {}, "closed": {}, "count": 0}},
        [],
        None,
    ],
    ids=str,
)
def test_an_exchange_that_does_not_tell(
    store: MemoryStore,
    exchange: Exchange,
    clock: StillClock,
    method: str,
    reply: Any,
) -> None:
    """Whatever is no list of orders is an ExchangeError with a hint, and settles nothing."""
    put(store)
    clock.advance(3_600)
    exchange.replies[method] = [reply]
    with pytest.raises(ExchangeError) as caught:
        run(account(store, exchange).reconcile())
    assert caught.value.hint
    assert on_record(store) == {"a": "unknown"}


@pytest.mark.parametrize("opened", [None, "soon", 1e400])
def test_an_order_without_its_time(
    store: MemoryStore, exchange: Exchange, opened: Any
) -> None:
    """An order of the id whose time cannot be read settles nothing."""
    put(store)
    orders = {"O1": {"cl_ord_id": "A1", "opentm": opened}}
    exchange.says(OpenOrders={"open": orders})
    with pytest.raises(ExchangeError, match="time"):
        run(account(store, exchange).reconcile())
    assert on_record(store) == {"a": "unknown"}


def test_what_was_settled_before_an_error_stays(
    store: MemoryStore, exchange: Exchange
) -> None:
    """An error of the client passes as it is, and a call that was settled before stays settled."""
    put(store, "a", nonce=5)
    put(store, "b", nonce=6, reference="cl_ord_id=A2")
    exchange.says(OpenOrders={"open": {"O1": exchange.order(0)}})
    failure = ConnectionResetError("in between")
    exchange.replies["ClosedOrders"] = [failure]
    with pytest.raises(ConnectionResetError) as caught:
        run(account(store, exchange).reconcile())
    assert caught.value is failure
    assert on_record(store) == {"a": "executed", "b": "unknown"}


# --- the key itself


def key_info(nonce: Any, **fields: Any) -> dict[str, Any]:
    """Return what GetApiKeyInfo answers."""
    return {"nonce": str(nonce), "nonceWindow": 0} | fields


@pytest.fixture
def asked(either: Store, exchange: Exchange) -> int:
    """Return the nonce of a question that is on its way, with a right answer to it."""
    state = either.update(KEY, lambda state, now: Changed(issue(state, now)))
    exchange.nonce = state.nonce
    exchange.says(GetApiKeyInfo=key_info(state.nonce))
    return state.nonce


def test_all_is_right(
    either: Store, exchange: Exchange, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One question, four findings, nothing wrong: nothing is logged, and the state is as it was."""
    before = either.read(KEY)
    findings = run(account(either, exchange).verify())
    assert [f.wrong for f in findings] == [False] * 4
    assert exchange.asked == [("GetApiKeyInfo", {})]
    assert either.read(KEY) == before
    assert not caplog.records


def test_a_higher_floor_is_followed_and_logged(
    either: Store, exchange: Exchange, asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What is wrong is returned, logged as a warning, and kept as the diagnosis; the mark follows."""
    exchange.says(GetApiKeyInfo=key_info(asked + 5_000, nonceWindow=9))
    with caplog.at_level(logging.WARNING):
        findings = run(account(either, exchange).verify())
    wrong = [finding for finding in findings if finding.wrong]
    assert [finding.about for finding in wrong] == ["floor", "nonce window"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    state = either.read(KEY)
    assert state.nonce == asked + 5_000
    for finding in wrong:
        assert finding.said in caplog.text
        assert finding.said in state.diagnosis


def test_the_nonce_of_the_question_is_known(
    either: Store, exchange: Exchange, asked: int
) -> None:
    """The exchange names the nonce of the question itself, which is not on record while it is asked."""
    put(either, "before", nonce=asked - 9, outcome="ok", serial=1)
    put(either, "after", nonce=asked + 9, outcome="ok", serial=2)
    floor, *_ = run(account(either, exchange).verify())
    assert not floor.wrong


@pytest.mark.parametrize(
    "used", ["", "soon", None, "nan", "inf", "-5", 0, "1716000000000", 1e300, []]
)
def test_a_last_use_that_cannot_be_read(
    either: Store, exchange: Exchange, asked: int, used: Any
) -> None:
    """What is no Unix time is taken for nothing said, and keeps nothing else from being verified."""
    exchange.says(GetApiKeyInfo=key_info(asked + 1, lastUsed=used))
    findings = {f.about: f for f in run(account(either, exchange).verify())}
    assert not findings["last use"].wrong
    assert either.read(KEY).nonce == asked + 1


@pytest.mark.parametrize(
    "result",
    [{}, None, [], {"nonce": "x", "nonceWindow": 0}, {"nonce": "5"}, {"nonce": None}],
    ids=str,
)
def test_an_answer_without_a_nonce(
    either: Store, exchange: Exchange, asked: int, result: Any
) -> None:
    """An answer that tells no nonce or no window is an ExchangeError with a hint, and changes nothing."""
    exchange.replies["GetApiKeyInfo"] = [{"error": [], "result": result}]
    before = either.read(KEY)
    with pytest.raises(ExchangeError) as caught:
        run(account(either, exchange).verify())
    assert caught.value.hint
    assert either.read(KEY) == before


@pytest.mark.parametrize(
    "failure",
    [
        {"error": ["EGeneral:Permission denied"]},
        {"error": [], "result": {}},
        RuntimeError("of the client, with a secret in it"),
        StoreUnavailableError("disk is full"),
    ],
    ids=str,
)
def test_verifying_after_a_refusal_raises_nothing(
    either: Store,
    exchange: Exchange,
    asked: int,
    failure: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller's reply is in hand: what fails is logged as a warning, by its kind alone (I11)."""
    exchange.replies["GetApiKeyInfo"] = [failure]
    with caplog.at_level(logging.WARNING):
        run(account(either, exchange).verify_after_refusal())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "could not be verified" in record.getMessage()
    assert "secret" not in caplog.text


def test_an_interrupt_of_verifying_passes(
    either: Store, exchange: Exchange, asked: int
) -> None:
    """Who presses Ctrl-C is heard."""
    exchange.replies["GetApiKeyInfo"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run(account(either, exchange).verify_after_refusal())
