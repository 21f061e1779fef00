"""The gate, with every step, clock and process in a test's hands: order, outcomes, deadlines, recovery, cleaning up."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce import CallGate, Rate, Recovery, calls, recovery, rules, steps
from persistent_nonce.calls import Call
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.doorbell import Doorbell
from persistent_nonce.errors import (
    ConfigurationError,
    ForkedCallError,
    GateTimeoutError,
    InvalidNonceError,
    KeyClosedError,
    LockedOutError,
    NestedCallError,
    NonceError,
    StoreUnavailableError,
    UnitMismatchError,
)
from persistent_nonce.messages import waits_for
from persistent_nonce.state import Change, Changed, KeyState, Outcome
from persistent_nonce.steps import Steps
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.simulated import Hands

KEY: Final = "the public part of a key"
GUARD: Final = 30.0


class BoomError(Exception):
    """The error of these tests."""


class Spied(MemoryStore):
    """A store that counts, fails, or lets something happen first."""

    def __init__(self, clock: Hands) -> None:
        super().__init__(clock=clock)
        self.updates = 0
        self.reads = 0
        self.failures: list[NonceError] = []
        self.before_update: list[Callable[[], object]] = []

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Count, do what was ordered, and update."""
        self.updates += 1
        if self.before_update:
            self.before_update.pop()()
        if self.failures:
            raise self.failures.pop()
        return super().update(key, change, durable=durable)

    def read(self, key: str) -> KeyState:
        """Count, and read."""
        self.reads += 1
        return super().read(key)


class Process:
    """A process of its own, as the shared state sees it: its session, and its gate."""

    _pids = itertools.count(4_194_305)  # above the greatest that Linux gives

    def __init__(self, store: Spied, **settings: Any) -> None:
        self.store = Spied(store.clock)  # type: ignore[arg-type]  # a stand-in for it
        mine = self.store.__dict__
        mine.update(store.__dict__, updates=0, reads=0, failures=[], before_update=[])
        mine["_session"] = None
        self.session = self.store.session()
        self.pid = next(self._pids)
        self.session.name = f"{self.pid}-1-1-{self.session.name[-8:]}"
        self.gate = CallGate(self.store, KEY, **settings)

    def wants(self, method: str = "Balance", **options: Any) -> Wanting:
        """Stand in the queue with a call."""
        return Wanting(self.gate.call(method, **options))

    @property
    def clean(self) -> bool:
        """Whether nothing of a call is left in this process."""
        return not self.session.live and not self.session.callers


class Wanting:
    """A call whose way in is driven step by step."""

    def __init__(self, call: Call) -> None:
        self.call = call
        call._begin()
        self.steps: Steps[None] = call._enter()
        self.inside = self.look()

    def look(self) -> bool:
        """Go on up to the next pause, or until the call has begun: True."""
        resume: Callable[[Any], Any] = self.steps.send
        value: Any = None
        try:
            while True:
                step = resume(value)
                if not callable(step):
                    return False
                try:
                    resume, value = self.steps.send, step()
                except NonceError as error:
                    resume, value = self.steps.throw, error
        except StopIteration:
            return True

    def leave(self, outcome: Outcome = "ok") -> None:
        """End the call."""
        self.call.settle(outcome)
        self.call.__exit__(None, None, None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """Return a clock that goes on only when somebody sleeps, or by hand."""
    hands = Hands()
    hands.forward(1_000)
    monkeypatch.setattr(Doorbell, "wait", lambda _, seconds: hands.forward(seconds))
    return hands


@pytest.fixture
def store(clock: Hands) -> Spied:
    """Return a store of that clock."""
    return Spied(clock)


@pytest.fixture
def gate(store: Spied) -> CallGate:
    """Return a gate with everything as it comes."""
    return CallGate(store, KEY)


def state_of(store: Spied) -> KeyState:
    """Return the state of the key."""
    return store.read(CallGate(store, KEY).key)


def change(store: Spied, how: Callable[[KeyState, Now], KeyState]) -> None:
    """Change the state of the key as another program would."""
    key = CallGate(store, KEY).key
    MemoryStore.update(store, key, lambda state, now: Changed(how(state, now)))


def outcomes(store: Spied) -> list[Outcome]:
    """Return how the calls ended, the oldest first."""
    return [record.outcome for record in reversed(store.calls())]


# --- one call


def test_a_call(gate: CallGate, store: Spied, clock: Hands) -> None:
    """A call has a nonce of the clock, runs alone while it lasts, and is recorded with its time."""
    with gate.call("Balance", cost=2) as call:
        running = state_of(store).running
        assert running is not None
        assert (running.nonce, running.method) == (call.nonce, "Balance")
        assert call.nonce == clock.wall() // 1_000_000
        assert call.waited == 0.0
        clock.forward(0.5)
    assert state_of(store).running is None
    (record,) = store.calls()
    assert (record.method, record.cost, record.nonce) == ("Balance", 2, call.nonce)
    assert (record.outcome, record.took, record.waited) == ("ok", SECOND // 2, 0)


def test_a_free_gate_costs_two_transactions(gate: CallGate, store: Spied) -> None:
    """With nobody waiting, a passage is one transaction on the way in and one on the way out."""
    with gate.call("Balance"):
        assert store.updates == 1
    assert (store.updates, store.reads) == (2, 0)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidNonceError("EAPI:Invalid nonce"), "invalid_nonce"),
        (BoomError(), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (SystemExit(1), "unknown"),
        (GeneratorExit(), "unknown"),
        (asyncio.CancelledError(), "unknown"),
    ],
)
def test_how_an_error_of_the_body_is_recorded(
    gate: CallGate, store: Spied, error: BaseException, outcome: str
) -> None:
    """An error reaches the caller as it is, and the call may have been executed unless its nonce was refused."""
    with pytest.raises(type(error)) as raised, gate.call("Balance"):
        raise error
    assert raised.value is error
    assert outcomes(store) == [outcome]
    assert state_of(store).running is None


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "said", ["ok", "error", "invalid_nonce", "unknown", "not_sent"]
)
def test_the_body_may_know_better(
    gate: CallGate, store: Spied, said: Outcome, fails: bool
) -> None:
    """What the body says of its call is recorded, whatever it raises."""

    def body() -> None:
        with gate.call("Balance") as call:
            call.settle(said)
            if fails:
                raise BoomError

    if fails:
        with pytest.raises(BoomError):
            body()
    else:
        body()
    assert outcomes(store) == [said]


@pytest.mark.parametrize("outcome", ["in_flight", "interrupted"])
def test_what_only_the_library_can_know(gate: CallGate, outcome: Outcome) -> None:
    """A body cannot say that its call goes on, or that its process died."""
    with gate.call("Balance") as call, pytest.raises(ConfigurationError):
        call.settle(outcome)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("EOrder:Insufficient funds", "EOrder:Insufficient funds"),
        ("x" * 201, "x" * 200),
        ("EOrder:\ud800", "EOrder:?"),
        ("é\U0001f600", "é\U0001f600"),
    ],
    ids=ascii,
)
def test_what_the_exchange_said(
    gate: CallGate, store: Spied, said: str, kept: str
) -> None:
    """Its error is on record, as far as it fits and can be written; the last word of a body holds."""
    with gate.call("AddOrder") as call:
        call.settle("unknown", "at first")
        call.settle("error", said)
    (record,) = store.calls()
    assert (record.outcome, record.said) == ("error", kept)


def test_half_a_character_stops_nobody(tmp_path: Path) -> None:
    """JSON may hold half a character; in an error of the exchange it costs neither the reply nor the key (I9)."""
    with closing(SQLiteStore(tmp_path / "nonces.db")) as store:
        gate = CallGate(store, KEY, min_interval=0)
        with gate.call("AddOrder") as call:
            call.settle("error", "EOrder:\ud800")
            call.back_off("\udfff", 0.001)
        with gate.call("AddOrder") as call:
            pass
        assert [record.said for record in store.calls()] == ["", "EOrder:?"]
        assert store.read(gate.key).reason == "?"


def test_a_body_asks_for_a_back_off(
    gate: CallGate, store: Spied, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """What a body asks of the key holds from the call's end on, for all processes, with its reason."""
    with gate.call("AddOrder") as call:
        call.back_off("first", 5)
        call.back_off("limited", 10, until=clock.wall() / SECOND + 20)
        assert state_of(store).not_before == 0
        clock.forward(1)
    assert recovery.rest(state_of(store), store.now(), 99) == 19 * SECOND
    assert "backs off for 19.0 s: limited" in caplog.text
    other = Process(store)
    with pytest.raises(LockedOutError, match="limited"):
        other.wants("CancelOrder", priority=99, timeout=18.9)
    assert other.clean
    assert not Process(store).wants("CancelOrder", timeout=19.1).inside


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": "10"},
        {"seconds": True},
        {"seconds": 10**9},
        {"until": -1},
        {"until": float("inf")},
        {"until": 2**63},
        {"until": None},
        {"most": -1},
        {"most": 10**9},
    ],
    ids=str,
)
def test_unusable_back_offs(
    gate: CallGate, store: Spied, wrong: dict[str, Any]
) -> None:
    """A back-off that cannot be is refused; the call, and what was asked before, stay as they were."""
    with gate.call("Balance") as call:
        call.settle("error", "no")
        call.back_off("limited", 10)
        with pytest.raises(ConfigurationError):
            call.back_off("wrong", **{"seconds": 5} | wrong)
    (record,) = store.calls()
    assert (record.outcome, record.said) == ("error", "no")
    assert recovery.rest(state_of(store), store.now(), 0) == 10 * SECOND
    assert state_of(store).reason == "limited"


def test_a_back_off_outside_a_call(gate: CallGate) -> None:
    """Only a call that has begun can ask anything of its key."""
    with pytest.raises(ConfigurationError, match="not begun"):
        gate.call("Balance").back_off("limited", 10)


def test_a_back_off_s_time_may_be_the_last(gate: CallGate, store: Spied) -> None:
    """The latest time that can be kept is a back-off of a day, with its reason cut to what fits."""
    with gate.call("Balance") as call:
        call.back_off("x" * 300, 0, until=2**63 // SECOND)
    assert recovery.rest(state_of(store), store.now(), 0) == 86_400 * SECOND
    assert state_of(store).reason == "x" * 200


def test_only_the_success_that_ends_refusals_heals(
    gate: CallGate, store: Spied, clock: Hands
) -> None:
    """A call knows whether its success ended a row of refused nonces."""
    healed = []
    for outcome in ("ok", "invalid_nonce", "unknown", "ok", "ok"):
        with gate.call("Balance") as call:
            call.settle(outcome)
            assert not call.healed
        healed.append(call.healed)
        clock.forward(60)
    assert healed == [False, False, False, True, False]


def test_a_reference_is_kept_with_the_record(gate: CallGate, store: Spied) -> None:
    """The caller's own id of what a call places is on record from its start, and at its end."""
    with gate.call("AddOrder", durable=True, reference="cl_ord_id=A1"):
        assert [call.reference for call in store.calls()] == ["cl_ord_id=A1"]
    with next(gate.attempts("AddOrder", reference="userref=7")):
        pass
    with gate.call("AddOrder"):
        pass
    kept = [call.reference for call in store.calls()]
    assert kept == ["", "userref=7", "cl_ord_id=A1"]


@pytest.mark.parametrize(
    "reference", ["two\nlines", " a", "x" * 65, "\ud800", 7], ids=ascii
)
def test_unusable_references(gate: CallGate, store: Spied, reference: Any) -> None:
    """A reference that cannot be kept is refused when the call is made, and nothing is lost."""
    with pytest.raises(ConfigurationError):
        gate.call("AddOrder", reference=reference)
    with pytest.raises(ConfigurationError):
        next(gate.attempts("AddOrder", reference=reference))
    assert store.updates == 0


def test_a_call_that_was_not_sent(gate: CallGate, store: Spied) -> None:
    """Its nonce is burnt, and the next call has a greater one."""
    with gate.call("Balance") as unsent:
        unsent.not_sent()
    with gate.call("Balance") as call:
        assert call.nonce > unsent.nonce
    assert outcomes(store) == ["not_sent", "ok"]


def test_changes_are_recorded_before_they_start(gate: CallGate, store: Spied) -> None:
    """The record of a call that changes something is there while it is in flight; that of another comes at its end."""
    with gate.call("AddOrder", durable=True):
        assert outcomes(store) == ["in_flight"]
    with gate.call("Balance"):
        assert outcomes(store) == ["ok"]
    assert outcomes(store) == ["ok", "ok"]


def test_a_call_is_used_once(gate: CallGate, store: Spied) -> None:
    """A call object cannot be entered again, neither inside itself nor later."""
    call = gate.call("Balance")
    with call, pytest.raises(NestedCallError, match="entered before"):
        call.__enter__()
    with pytest.raises(NestedCallError, match="entered before"):
        call.__enter__()
    assert outcomes(store) == ["ok"]


def test_a_call_that_failed_to_begin_is_used_up(gate: CallGate, store: Spied) -> None:
    """Also one that was never begun cannot be entered again, which could be by a waiting and a giving-up thread."""
    store.failures.append(StoreUnavailableError("gone"))
    call = gate.call("Balance")
    with pytest.raises(StoreUnavailableError):
        call.__enter__()
    with pytest.raises(NestedCallError):
        call.__enter__()


def test_a_call_that_has_not_begun_has_no_nonce(gate: CallGate) -> None:
    """Nonce, wait and outcome belong to a call that has begun."""
    call = gate.call("Balance")
    for ask in (lambda: call.nonce, lambda: call.waited, call.not_sent):
        with pytest.raises(ConfigurationError, match="not begun"):
            ask()


def test_an_inherited_call(
    gate: CallGate, store: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process neither nonce, exit nor finalizer of a call does anything."""
    call = gate.call("Balance").__enter__()
    before, mine = state_of(store), os.getpid()
    with monkeypatch.context() as forked:
        forked.setattr(calls.os, "getpid", lambda: -1)  # type: ignore[attr-defined]  # a module is not a class
        for use in (lambda: call.nonce, lambda: call.__exit__(None, None, None)):
            with pytest.raises(ForkedCallError, match=f"process {mine}"):
                use()
        call.__del__()
        gate.store.update("0" * 16, lambda state, now: Changed(state))
        assert state_of(store) == before
    call.__exit__(None, None, None)
    assert outcomes(store) == ["ok"]


# --- arguments


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "1"},
        {"hold_timeout": 0},
        {"min_interval": -0.1},
        {"min_interval": True},
        {"label": "a/b"},
        {"unit": "hours"},
    ],
)
def test_unusable_settings(store: Spied, settings: dict[str, Any]) -> None:
    """A gate refuses what it cannot use when it is made."""
    with pytest.raises(ConfigurationError):
        CallGate(store, KEY, **settings)


@pytest.mark.parametrize("key", ["", " ", None, b"key"])
def test_unusable_keys(store: Spied, key: Any) -> None:
    """A key is text, and not empty."""
    with pytest.raises(ConfigurationError):
        CallGate(store, key)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("", {}),
        ("two\nlines", {}),
        ("Balance", {"cost": -1}),
        ("Balance", {"cost": 1.5}),
        ("Balance", {"cost": True}),
        ("Balance", {"priority": "high"}),
        ("Balance", {"timeout": -1}),
    ],
)
def test_unusable_calls(gate: CallGate, method: str, options: dict[str, Any]) -> None:
    """A call refuses what it cannot use when it is made, not when it is its turn."""
    with pytest.raises(ConfigurationError):
        gate.call(method, **options)


def test_a_cost_that_the_counter_never_allows(store: Spied) -> None:
    """A call that could wait for ever is refused at once, and leaves nothing behind."""
    process = Process(store, rate=Rate(1.0, 3))
    with (
        pytest.raises(ConfigurationError, match="costs 4"),
        process.gate.call("Ledgers", cost=4),
    ):
        pass
    assert state_of(store).queue == ()
    assert process.clean


def test_settings_are_followed_or_refused(store: Spied) -> None:
    """A gate without an opinion follows the stored settings; one with another opinion is refused, unsent."""
    with CallGate(store, KEY, unit="us", min_interval=0.5).call("Balance") as call:
        nonce = call.nonce
    with CallGate(store, KEY).call("Balance") as call:
        assert call.waited == pytest.approx(0.5)
        assert call.nonce >= nonce + 500_000
    with pytest.raises(UnitMismatchError):
        CallGate(store, KEY, unit="ns").call("Balance").__enter__()
    with pytest.raises(ConfigurationError, match="min_interval"):
        CallGate(store, KEY, min_interval=0.1).call("Balance").__enter__()
    assert outcomes(store) == ["ok", "ok"]


# --- one caller, one call


def test_a_nested_call(store: Spied) -> None:
    """A call inside another of the same caller and key is refused at once, and the outer one does not notice (I8)."""
    process = Process(store)
    again = CallGate(process.store, KEY)  # another object is no way round
    with process.gate.call("Balance") as outer:
        for _ in range(3):
            with pytest.raises(NestedCallError, match="inside another"):
                again.call("Ledgers").__enter__()
        running = state_of(store).running
        assert running is not None
        assert running.nonce == outer.nonce
        with CallGate(process.store, "another key").call("Balance"):
            pass
    with again.call("Ledgers"):
        pass
    assert outcomes(store) == ["ok", "ok", "ok"]
    assert process.clean


@pytest.mark.parametrize("blow", range(12))
def test_an_interrupt_of_a_nested_call(store: Spied, blow: int) -> None:
    """However far a nested call came before it was interrupted, the outer one is still known as its caller's."""
    process = Process(store)
    with process.gate.call("Balance"):
        interrupt(process.gate.call("Ledgers"), blow)
        with pytest.raises(NestedCallError):
            process.gate.call("Ledgers").__enter__()


def test_another_thread_waits(store: Spied, clock: Hands) -> None:
    """A thread that another has started during its call is a caller of its own: it stands in the queue."""
    process = Process(store, min_interval=0.0)
    queued: list[Wanting] = []
    with process.gate.call("Balance"):
        thread = threading.Thread(target=lambda: queued.append(process.wants()))
        thread.start()
        thread.join(GUARD)
        assert not queued[0].inside
    assert queued[0].look()
    queued[0].leave()
    assert outcomes(store) == ["ok", "ok"]
    assert process.clean


def test_a_child_task_waits(store: Spied) -> None:
    """A task that another has started during its call inherits its context, but not its call."""
    process = Process(store, min_interval=0.0)

    async def child() -> Wanting:
        return process.wants()

    async def parent() -> Wanting:
        async with process.gate.call("Balance"):
            waiting = await asyncio.create_task(child())
            assert not waiting.inside
        return waiting

    waiting = asyncio.run(parent())
    assert waiting.look()
    waiting.leave()
    assert process.clean


# --- the order


def test_first_come_first_served(store: Spied) -> None:
    """Calls of several processes start in the order in which they came (I5, I7)."""
    processes = [Process(store, min_interval=0.0) for _ in range(5)]
    waiting = [process.wants() for process in processes]
    nonces = []
    while waiting:
        first, *waiting = waiting
        assert first.inside or first.look()
        assert not any(later.look() for later in waiting)
        nonces.append(first.call.nonce)
        first.leave()
    assert nonces == sorted(nonces)
    assert len(nonces) == 5


def test_higher_priorities_go_first(store: Spied) -> None:
    """A higher priority overtakes those who wait, not the call in flight; equals stay in order."""
    holder = Process(store, min_interval=0.0).wants()
    waiting = {
        name: Process(store).wants(name, priority=priority)
        for name, priority in [("a", 0), ("b", 5), ("c", -1), ("d", 5), ("e", 0)]
    }
    holder.leave()
    started = []
    while waiting:
        (inside,) = [name for name, call in waiting.items() if call.look()]
        started.append(inside)
        waiting.pop(inside).leave()
    assert "".join(started) == "bdaec"


def test_a_dead_waiter_is_skipped(store: Spied, clock: Hands) -> None:
    """Who waits behind a process that died finds out and goes on, well before it would be passed over (I7)."""
    holder, dead, next_ = (Process(store, min_interval=0.0) for _ in range(3))
    call, _, waiting = holder.wants(), dead.wants(), next_.wants()
    dead.session.end()
    call.leave()
    clock.forward(0.2)  # when the sessions ahead are asked again
    assert waiting.look()
    assert state_of(store).queue == ()


def test_a_dead_holder(
    store: Spied, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """A call whose process died ends as interrupted as soon as another wants one, and is on record (I3)."""
    holder = Process(store, min_interval=0.0)
    lost = holder.wants("AddOrder")
    holder.session.end()
    next_ = Process(store).wants()
    assert not next_.inside
    assert next_.look()
    record = store.calls()[-1]
    assert (record.method, record.nonce) == ("AddOrder", lost.call.nonce)
    assert record.outcome == "interrupted"
    assert f"session {holder.session.name} is dead" in caplog.text


def test_a_silent_waiter_is_passed_over(store: Spied, clock: Hands) -> None:
    """Who lets its turn pass is passed over after a second, with all of its session, and keeps its ticket (I7)."""
    holder, silent, next_, last = (Process(store, min_interval=0.0) for _ in range(4))
    call, one, two = holder.wants(), silent.wants(), next_.wants()
    thread = threading.Thread(target=lambda: again.append(silent.wants()))
    again: list[Wanting] = []
    thread.start()
    thread.join(GUARD)
    three = last.wants()
    call.leave()
    clock.forward(0.9)
    assert not two.look()
    clock.forward(0.1)
    assert two.look()
    assert not one.look()  # it moves again, and stands where it stood
    two.leave()
    assert not three.look()
    assert one.look()
    one.leave()
    assert three.look(), "the rest of the session is still silent"
    three.leave()
    assert again[0].look()


def test_a_call_of_the_same_process_begun_meanwhile(store: Spied) -> None:
    """A thread on its way into a transaction takes no call for a left-over that another has begun since (I5)."""
    process = Process(store, min_interval=0.0)
    begun: list[Wanting] = []

    def meanwhile() -> None:
        thread = threading.Thread(target=lambda: begun.append(process.wants("Ledgers")))
        thread.start()
        thread.join(GUARD)

    process.store.before_update.append(meanwhile)
    waiting = process.wants("Balance")
    assert begun[0].inside
    assert not waiting.inside
    running = state_of(store).running
    assert running is not None
    assert running.method == "Ledgers"
    begun[0].leave()
    assert waiting.look()
    assert outcomes(store) == ["ok"]


# --- waiting


def test_the_interval(gate: CallGate) -> None:
    """Calls start 200 ms apart by default, and a call knows how long it waited (I6)."""
    for number in range(10):
        with gate.call("Balance") as call:
            assert call.waited == pytest.approx(0.2 if number else 0.0, abs=1e-6)


def test_the_counter(store: Spied, clock: Hands) -> None:
    """After the burst, calls start as the counter drains; a call of cost 0 does not wait for it (I6)."""
    gate = CallGate(store, KEY, rate=Rate(2.0, 3), min_interval=0.0)
    begin = clock.mono()
    starts = []
    for cost in (1, 1, 1, 1, 0, 2):
        with gate.call("Balance", cost=cost):
            starts.append((clock.mono() - begin) / SECOND)
    assert starts == pytest.approx([0, 0, 0, 2, 2, 6], abs=1e-6)


def test_waiting_reads_and_does_not_write(store: Spied, clock: Hands) -> None:
    """Who waits looks without a lock, the nearer the more often, and makes no transaction before it can help (I7)."""
    call = Process(store, min_interval=0.0).wants()
    first, second = Process(store), Process(store)
    looks = []
    for process in (first, second):
        waiting = process.wants()
        begin = clock.mono()
        while clock.mono() < begin + SECOND:
            step = waiting.steps.send(None)
            while callable(step):
                step = waiting.steps.send(step())
            assert isinstance(step, float)
            clock.forward(step)
        assert process.store.updates == 1
        looks.append(process.store.reads)
    assert 200 <= looks[0] <= 1_001  # one each 1 to 5 ms, the later the less often
    assert 10 <= looks[1] <= 201  # at most one each 5 ms, at least one each 100 ms
    call.leave()


@pytest.mark.parametrize("timeout", [0.0, 0.05, 3.0])
def test_a_wait_ends_at_its_deadline(
    store: Spied, clock: Hands, timeout: float
) -> None:
    """The error says in whose hands the gate is: pid, state of the process, method, age (I8)."""
    holder, process = Process(store), Process(store)
    call = holder.wants("Ledgers")
    clock.forward(7)
    begin = clock.mono()
    with (
        pytest.raises(GateTimeoutError) as raised,
        process.gate.call("Balance", timeout=timeout),
    ):
        pass
    waited = (clock.mono() - begin) / SECOND
    assert waited == pytest.approx(timeout, abs=1e-6)
    text = str(raised.value)
    assert f"Balance of key {process.gate.key} was not sent" in text
    assert f"no turn in {timeout:g} s" in text
    age = 7 + timeout
    assert f"Ledgers of process {holder.pid} (gone) for {age:.1f} s" in text
    assert raised.value.hint
    assert isinstance(raised.value, TimeoutError)
    assert state_of(store).queue == ()
    assert process.clean
    call.leave()
    assert outcomes(store) == ["ok"]


def test_a_timeout_of_zero_is_enough_for_a_free_gate(gate: CallGate) -> None:
    """A call that need not wait starts, however little time it was given."""
    with gate.call("Balance", timeout=0):
        pass


def test_a_deadline_before_the_counter_has_drained(store: Spied, clock: Hands) -> None:
    """With nothing in flight, the error names who is next, and what that one waits for."""
    gate = CallGate(store, KEY, rate=Rate(100.0, 1), timeout=2)
    with gate.call("Balance"):
        pass
    with pytest.raises(GateTimeoutError, match=r"next is Balance .*the call counter"):
        gate.call("Balance").__enter__()
    assert state_of(store).queue == ()


def test_nobody_stands_in_the_way_for_ever(store: Spied, clock: Hands) -> None:
    """A clock set back makes no wait longer (I8)."""
    gate = CallGate(store, KEY, min_interval=0.0, timeout=20)
    change(store, lambda s, now: recovery.lockout(s, now, 10 * SECOND, "busy"))
    waiting = Process(store).wants(timeout=20)
    wall = clock.wall
    clock.wall = lambda: wall() - 3_600 * SECOND  # type: ignore[method-assign]  # a clock set back
    with gate.call("Balance", priority=1) as call:
        assert call.waited <= 10.0 + 1e-6
    assert waiting.look()


# --- overtaken


def overtaken(store: Spied, clock: Hands) -> tuple[Wanting, Wanting]:
    """Return a call that lasted longer than it may, and the one that has overtaken it."""
    slow = Process(store, min_interval=0.0, hold_timeout=10.0).wants("AddOrder")
    next_ = Process(store).wants()
    clock.forward(10.0)
    assert not next_.look()
    clock.forward(0.001)
    assert next_.look()
    return slow, next_


def test_a_call_that_lasts_too_long(store: Spied, clock: Hands) -> None:
    """After its time a call is overtaken with a greater nonce, and is on record as unknown (I5, I8)."""
    slow, next_ = overtaken(store, clock)
    assert next_.call.nonce > slow.call.nonce
    assert outcomes(store) == ["unknown"]


@pytest.mark.parametrize("late", ["ok", "error", "not_sent", "unknown"])
def test_the_late_outcome_of_an_overtaken_call(
    store: Spied, clock: Hands, late: Outcome
) -> None:
    """What an overtaken call comes to replaces `unknown`, and the call in flight is not touched."""
    slow, next_ = overtaken(store, clock)
    before = state_of(store).running
    slow.leave(late)
    assert state_of(store).running == before
    assert outcomes(store) == [late]
    next_.leave()
    assert outcomes(store) == [late, "ok"]


def test_the_late_refusal_of_an_overtaken_call(store: Spied, clock: Hands) -> None:
    """Its nonce was refused because a greater one was there: no jump, no count, no back-off (design §7)."""
    slow, next_ = overtaken(store, clock)
    before = state_of(store)
    slow.leave("invalid_nonce")
    after = state_of(store)
    assert outcomes(store) == ["invalid_nonce"]
    assert after == before._replace(settled=after.settled)
    next_.leave()


# --- attempts


def refuse_all(gate: CallGate, **options: Any) -> None:
    """Have every attempt refused, which ends with an error."""
    for attempt in gate.attempts("Balance", **options):
        with attempt:
            raise InvalidNonceError


def test_an_attempt_that_succeeds_is_the_last(gate: CallGate, store: Spied) -> None:
    """Without a refusal there is one attempt."""
    made = 0
    for attempt in gate.attempts("Balance"):
        with attempt:
            made += 1
    assert made == 1
    assert outcomes(store) == ["ok"]


def test_an_attempt_after_a_refusal(
    gate: CallGate, store: Spied, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused nonce is kept from the caller, jumps 60 s ahead for all, and is tried again after 2 s (design §8)."""
    nonces, begin = [], clock.mono()
    for attempt in gate.attempts("Balance"):
        with attempt as call:
            nonces.append(call.nonce)
            if len(nonces) == 1:
                raise InvalidNonceError
    assert nonces[1] - nonces[0] == pytest.approx(60_000, abs=2)
    assert clock.mono() - begin == pytest.approx(2 * SECOND, abs=1_000)
    assert outcomes(store) == ["invalid_nonce", "ok"]
    assert state_of(store).refusals == 0
    for said in (f"nonce {nonces[0]} refused, 1 in a row", "jumps to", "2.0 s"):
        assert said in caplog.text
    assert KEY not in caplog.text


def test_attempts_are_bounded(gate: CallGate, store: Spied, clock: Hands) -> None:
    """Three refusals, 2 s and 30 s between them, close the key; the last error says why (I10)."""
    begin = clock.mono()
    with pytest.raises(InvalidNonceError) as raised:
        refuse_all(gate, timeout=1)  # back-offs are not charged
    assert clock.mono() - begin == pytest.approx(32 * SECOND, abs=10_000)
    assert "attempt 3 of 3" in str(raised.value)
    assert raised.value.hint == state_of(store).diagnosis
    assert isinstance(raised.value.__cause__, InvalidNonceError)
    assert outcomes(store) == ["invalid_nonce"] * 3


def test_a_closed_key_fails_at_once(gate: CallGate, store: Spied, clock: Hands) -> None:
    """Nothing is sent with a closed key, neither new calls nor those that wait, until it is opened again."""
    with pytest.raises(InvalidNonceError):
        refuse_all(gate)
    begin, mark = clock.mono(), state_of(store).nonce
    with pytest.raises(KeyClosedError, match="in a row were refused"):
        gate.call("Balance").__enter__()
    with pytest.raises(KeyClosedError):
        refuse_all(gate)
    assert (clock.mono(), state_of(store).nonce) == (begin, mark)
    assert state_of(store).queue == ()
    assert len(store.calls()) == 3


def test_who_waits_learns_that_the_key_was_closed(store: Spied, clock: Hands) -> None:
    """A waiting call fails at its next look."""
    holder = Process(store, recovery=Recovery(attempts=1))
    call, process = holder.wants(), Process(store)
    waiting = process.wants()
    call.leave("invalid_nonce")
    with pytest.raises(KeyClosedError):
        waiting.look()
    assert process.clean
    assert state_of(store).queue == ()


def test_other_errors_end_the_attempts(gate: CallGate, store: Spied) -> None:
    """Only a refused nonce is known not to have been executed."""
    made = 0

    def body() -> None:
        nonlocal made
        for attempt in gate.attempts("AddOrder"):
            with attempt:
                made += 1
                raise BoomError

    with pytest.raises(BoomError):
        body()
    assert made == 1
    assert outcomes(store) == ["unknown"]


def test_a_refusal_without_an_exception(gate: CallGate, store: Spied) -> None:
    """A client with the reply in hand says so and raises nothing; it gets its attempts and no error (design §8)."""
    made = 0
    for attempt in gate.attempts("Balance"):
        with attempt as call:
            made += 1
            call.settle("invalid_nonce")
    assert made == 3
    assert state_of(store).closed


def test_a_loop_that_never_enters(gate: CallGate) -> None:
    """An attempt that was not made is not repeated for ever."""
    assert len(list(gate.attempts("Balance"))) == 1


def test_stored_attempts_are_followed(store: Spied) -> None:
    """A gate without an opinion makes as many attempts as the key's own setting says."""
    mine = CallGate(store, KEY, recovery=Recovery(attempts=5, wait=1))
    with mine.call("Balance"):
        pass
    made = 0
    for attempt in CallGate(store, KEY).attempts("Balance"):
        with attempt as call:
            made += 1
            call.settle("invalid_nonce")
    assert made == 5


def test_a_refusal_is_shared(store: Spied, clock: Hands) -> None:
    """All processes wait out the back-off of one refusal, but for urgent calls; there is one jump."""
    one, two = Process(store), Process(store)
    call = one.wants()
    other = two.wants()
    call.leave("invalid_nonce")
    mark = state_of(store).nonce
    clock.forward(1.9)
    assert not other.look()
    urgent = Process(store).wants("CancelOrder", priority=20)
    assert urgent.inside
    urgent.leave("error")
    clock.forward(0.2)
    assert other.look()
    assert other.call.nonce == mark + 2


def test_the_own_back_off_is_not_charged(store: Spied, clock: Hands) -> None:
    """The wait after a refusal is not taken from the next attempt's timeout; a lockout that others set is (I8)."""
    gate = CallGate(store, KEY, timeout=1)
    attempts = gate.attempts("Balance")
    with next(attempts) as call:
        call.settle("invalid_nonce")
    change(store, lambda s, now: recovery.lockout(s, now, 900 * SECOND, "lockout"))
    begin = clock.mono()
    with pytest.raises(LockedOutError, match="lockout"):
        next(attempts).__enter__()
    assert clock.mono() == begin


# --- lockouts


def test_a_lockout_longer_than_the_timeout(store: Spied, clock: Hands) -> None:
    """A call whose deadline cannot be met fails at once and says why and how long (design §8)."""
    process = Process(store)
    change(store, lambda s, now: recovery.lockout(s, now, 100 * SECOND, "EGeneral:x"))
    begin = clock.mono()
    with pytest.raises(LockedOutError, match=r"EGeneral:x; 100\.0 s to wait"):
        process.gate.call("Balance", timeout=60).__enter__()
    assert clock.mono() == begin
    assert state_of(store).queue == ()
    assert process.clean
    with process.gate.call("Balance", timeout=120) as call:
        assert call.waited == pytest.approx(100, abs=1e-3)


def test_a_lockout_that_comes_while_waiting(store: Spied, clock: Hands) -> None:
    """Those who wait already fail at their next look."""
    call, process = Process(store).wants(), Process(store)
    waiting = process.wants(timeout=10)
    call.leave()
    change(store, lambda s, now: recovery.lockout(s, now, 100 * SECOND, "busy"))
    with pytest.raises(LockedOutError):
        waiting.look()
    assert process.clean


# --- a store that fails


def test_a_store_that_fails_on_the_way_in(store: Spied) -> None:
    """The error reaches the caller, nothing was sent, and nothing is left (I9)."""
    process = Process(store)
    process.store.failures.append(StoreUnavailableError("the disk is full"))
    with pytest.raises(StoreUnavailableError, match="full"):
        process.gate.call("Balance").__enter__()
    assert process.clean
    assert state_of(store).queue == ()
    with process.gate.call("Balance"):
        pass


def test_a_store_that_fails_on_the_way_out(
    store: Spied, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller keeps its reply, and the call is ended, with its outcome, as soon as the store works again."""
    process = Process(store)

    def body() -> str:
        with process.gate.call("Balance"):
            process.store.failures.append(StoreUnavailableError("the disk is full"))
            return "reply"

    assert body() == "reply"
    assert "could not be ended yet: the disk is full" in caplog.text
    assert state_of(store).running is not None
    with process.gate.call("Ledgers"):
        pass
    assert sorted(outcomes(store)) == ["ok", "ok"]
    assert process.clean


def test_a_refusal_that_could_not_be_stored(store: Spied) -> None:
    """Without the shared state there is no further attempt: the others could not know of the back-off (I9)."""
    process = Process(store)

    def body() -> None:
        for attempt in process.gate.attempts("Balance"):
            with attempt:
                process.store.failures.append(StoreUnavailableError("the disk is full"))
                raise InvalidNonceError

    with pytest.raises(InvalidNonceError, match="attempt 1 of 3"):
        body()


# --- interrupted


class Interrupt(KeyboardInterrupt):
    """The interrupt of these tests."""


def interrupt(call: Call, blow: int) -> None:
    """Enter `call` and interrupt it at its step number `blow // 3`: before it, after it, or by dropping it there."""
    call._begin()
    steps: Any = call._enter()
    number, how = divmod(blow, 3)
    resume, value = steps.send, None
    try:
        for at in itertools.count():
            step = resume(value)
            resume, value = steps.send, None
            if at == number:
                if how and callable(step):
                    step()  # made, but its result is lost
                if how == 2:
                    steps.close()
                    return
                resume, value = steps.throw, Interrupt()
            elif callable(step):
                value = step()
    except (Interrupt, StopIteration, NonceError):
        pass
    if call._id and call._running is not None:
        call.__exit__(None, None, None)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("blow", range(18))
def test_an_interrupt_on_the_way_in(store: Spied, blow: int, busy: bool) -> None:
    """Wherever the way in is interrupted or dropped, nothing is left in queue, gate or process (trap 6, A18)."""
    holder, process = Process(store, min_interval=0.0), Process(store)
    held = holder.wants() if busy else None
    interrupt(process.gate.call("Balance"), blow)
    store.update("0" * 16, lambda state, now: Changed(state))  # does what was left over
    assert state_of(store).queue == ()
    assert process.clean
    if held is not None:
        held.leave()
    assert state_of(store).running is None
    assert holder.wants().inside


def test_a_call_dropped_while_its_thread_is_on_its_way(store: Spied) -> None:
    """A transaction that is made after its call was dropped stands in no queue (a loop that closed too early)."""
    process = Process(store)
    call = process.gate.call("Balance")
    call._begin()
    steps = call._enter()
    session: Any = steps.send(None)
    join: Any = steps.send(session())
    steps.close()
    store.update("0" * 16, lambda state, now: Changed(state))  # does what was left over
    join()
    assert (state_of(store).queue, state_of(store).running) == ((), None)


def test_an_interrupt_that_the_steps_never_saw(
    store: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that strikes when the steps are done, or not begun, takes the call back, or ends it (A18)."""
    process = Process(store, min_interval=0.0)
    real = steps.run

    def after(procedure: Steps[Any], **_: Any) -> None:
        real(procedure)
        raise Interrupt

    def before(procedure: Steps[Any], **_: Any) -> None:
        raise Interrupt

    for strike in (before, after):
        with monkeypatch.context() as striking:
            striking.setattr(calls, "run", strike)
            left = process.gate.call("Balance")  # kept alive: no finalizer helps
            with pytest.raises(Interrupt):
                left.__enter__()
        store.update("0" * 16, lambda state, now: Changed(state))
        assert state_of(store).running is None
        assert process.clean
    for strike in (before, after):
        call = process.gate.call("Ledgers").__enter__()
        with monkeypatch.context() as striking:
            striking.setattr(calls, "run", strike)
            with pytest.raises(Interrupt):
                call.__exit__(None, None, None)
        store.update("0" * 16, lambda state, now: Changed(state))
        assert state_of(store).running is None
        assert process.clean
    assert outcomes(store) == ["not_sent", "ok", "ok"]


@pytest.mark.parametrize("made", [False, True])
def test_an_interrupt_on_the_way_out(store: Spied, made: bool) -> None:
    """An interrupted exit is carried out later, with its outcome, and twice does no harm."""
    process = Process(store, min_interval=0.0)
    call = process.gate.call("Balance").__enter__()
    steps: Any = call._exit(None)
    step = steps.send(None)
    if made:
        step()
    with pytest.raises(Interrupt):
        steps.throw(Interrupt())
    with process.gate.call("Ledgers"):
        pass
    assert outcomes(store) == ["ok", "ok"]
    assert process.clean


def test_a_call_object_that_is_dropped(store: Spied) -> None:
    """A call that was never exited ends when its object goes, as unknown; nobody waits for its hold time."""
    process = Process(store, min_interval=0.0)
    process.gate.call("AddOrder").__enter__()  # dropped at once
    gc.collect()
    assert process.clean
    with process.gate.call("Balance"):
        pass
    assert outcomes(store) == ["unknown", "ok"]


def test_a_generator_that_is_closed_in_a_call(gate: CallGate, store: Spied) -> None:
    """A generator that is not used up ends its call when it is closed."""

    def pages() -> Any:
        with gate.call("Ledgers"):
            yield 1
            yield 2

    generator = pages()
    assert next(generator) == 1
    generator.close()
    assert state_of(store).running is None
    assert outcomes(store) == ["unknown"]


def test_a_left_over_of_the_own_session(store: Spied, clock: Hands) -> None:
    """What an interrupt left under this process's name goes at its next transaction."""
    process = Process(store, min_interval=0.0)
    left = process.wants()
    process.session.live.clear()
    process.session.callers.clear()
    with process.gate.call("Balance"):
        assert outcomes(store) == ["unknown"]
    del left
    assert state_of(store).queue == ()


# --- the log


def test_waits_are_logged(
    gate: CallGate, store: Spied, caplog: pytest.LogCaptureFixture
) -> None:
    """Each wait says at DEBUG how long it was and why; no line has the API key in it (I11)."""
    caplog.set_level(logging.DEBUG, "persistent_nonce")
    with gate.call("Balance"):
        pass
    assert caplog.text == ""
    with gate.call("Ledgers"):
        pass
    assert f"Ledgers of key {gate.key} waited 200 ms for the interval" in caplog.text
    assert KEY not in caplog.text


def test_what_is_waited_for(store: Spied, clock: Hands) -> None:
    """The reason of a wait is the call in flight, the one before it, a back-off, the interval or the counter."""
    holder, first = Process(store, rate=Rate(50, 1)), Process(store)
    call, next_ = holder.wants("Ledgers"), first.wants()
    state = state_of(store)

    def reason(id: str = "x") -> str:
        return waits_for(state, Now(clock.wall(), clock.mono(), state.boot), id)

    assert reason() == f"Ledgers of process {holder.pid}"
    call.leave()
    state = state_of(store)
    assert reason() == f"the turn of process {first.pid}"
    assert reason(next_.call._id) == "the interval"
    clock.forward(1)
    assert reason(next_.call._id) == "the call counter"
    change(store, lambda s, now: recovery.lockout(s, now, SECOND, "busy"))
    state = state_of(store)
    assert reason(next_.call._id) == "the back-off (busy)"
    assert rules.mine(state, next_.call._id) is not None
