"""Processes that join, look, start, end, stop, die and see clocks step, in any order; the waiting room checks."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.state import Outcome
from tests.support.waiting_room import HOLD, INTERVAL, Caller, WaitingRoom

LENGTHS = st.sampled_from(
    [1, SECOND // 1_000, SECOND // 20, INTERVAL - 1, INTERVAL, SECOND, HOLD, HOLD + 1]
)
SHARES = st.sampled_from([0.0, 0.5, 1.0])
PICKS = st.integers(0, 1_000)
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    ["ok", "ok", "error", "unknown", "not_sent", "invalid_nonce"]
)


class SharedKey(RuleBasedStateMachine):
    """Several processes on one key (I5, I6, I7, I8, I10)."""

    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom()

    @initialize(count=st.integers(2, 4))
    def start(self, count: int) -> None:
        """Begin with some processes."""
        for _ in range(count):
            self.room.begin_session()

    def _session(self, pick: int) -> str | None:
        names = [name for name in self.room.sessions if self.room.active(name)]
        return names[pick % len(names)] if names else None

    def _usable(self, caller: Caller) -> bool:
        known = self.room.callers.get(caller.id) is caller
        return known and self.room.active(caller.session)

    @rule(
        target=callers,
        pick=PICKS,
        cost=st.integers(0, 2),
        priority=st.sampled_from([0, 0, 0, 10, 20]),
    )
    def join(self, pick: int, cost: int, priority: int) -> Caller:
        """Have a process want to call."""
        session = self._session(pick) or self.room.begin_session()
        if self.room.state.closed:
            self.room.reopen()
        return self.room.join(session, cost=cost, priority=priority)

    @rule(caller=callers)
    def poll(self, caller: Caller) -> None:
        """Let a waiter look, and act if that can help."""
        if self._usable(caller) and caller.running is None:
            try:
                self.room.poll(caller)
            except KeyClosedError:
                assert self.room.state.closed
                self.room.leave(caller)

    @rule(caller=callers)
    def poll_at_the_right_time(self, caller: Caller) -> None:
        """Let a waiter sleep until something can happen, and act then."""
        for _ in range(2):
            if self._usable(caller) and caller.running is None:
                try:
                    self.room.advance(self.room.poll(caller))
                except KeyClosedError:
                    self.room.leave(caller)

    @rule(caller=callers, outcome=OUTCOMES, share=SHARES)
    def finish(self, caller: Caller, outcome: Outcome, share: float) -> None:
        """End a call, perhaps after it was overtaken."""
        if self._usable(caller) and caller.running is not None:
            self.room.finish(caller, outcome, share)

    @rule(caller=callers)
    def leave(self, caller: Caller) -> None:
        """Let a caller give up, or cancel its task."""
        if self._usable(caller) and caller.running is None:
            self.room.leave(caller)

    @rule(caller=callers, share=SHARES)
    def drop(self, caller: Caller, share: float) -> None:
        """Leave an entry behind, as an interrupt may."""
        if self._usable(caller):
            self.room.drop(caller, share)

    @rule(pick=PICKS, share=SHARES)
    def kill(self, pick: int, share: float) -> None:
        """Kill a process and start another."""
        session = self._session(pick)
        if session is not None:
            self.room.kill(session, share)
            self.room.begin_session()

    @rule(pick=PICKS)
    def stop(self, pick: int) -> None:
        """Stop a process, by a signal or in a blocked loop."""
        session = self._session(pick)
        if session is not None:
            self.room.stopped.add(session)

    @rule(pick=PICKS)
    @precondition(lambda self: self.room.stopped)
    def go_on(self, pick: int) -> None:
        """Let a stopped process go on."""
        names = sorted(self.room.stopped)
        self.room.stopped.discard(names[pick % len(names)])

    @rule(length=LENGTHS)
    def wait(self, length: int) -> None:
        """Time goes by."""
        self.room.advance(length)

    @rule(seconds=st.sampled_from([-86_400, -3_600, -2, 2, 3_600]))
    def step_clock(self, seconds: int) -> None:
        """Set the wall clock."""
        self.room.step_clock(seconds * SECOND)

    @rule(seconds=st.sampled_from([1, 5, 900]))
    def lockout(self, seconds: int) -> None:
        """Back off, as the exchange demands."""
        self.room.lockout(seconds * SECOND)

    @rule()
    def issue(self) -> None:
        """Take a nonce without the gate."""
        if not self.room.state.closed:
            self.room.issue()

    @rule(ahead=st.sampled_from([1, 10**6, 10**9]))
    def raise_floor(self, ahead: int) -> None:
        """Set a floor, as an operator may."""
        self.room.raise_floor(ahead)

    @invariant()
    def at_most_one_place_each(self) -> None:
        """No call stands in the queue twice, or waits and runs at once."""
        state = self.room.state
        ids = [call.id for call in state.queue]
        if state.running is not None:
            ids.append(state.running.id)
        assert len(ids) == len(set(ids))

    def teardown(self) -> None:
        """When everybody else has stopped, a newcomer gets in (I7, I8)."""
        room = self.room
        if room.state.closed:
            room.reopen()
        room.stopped |= set(room.sessions)
        room.get_in(room.join(room.begin_session()))


TestSharedKey = SharedKey.TestCase
