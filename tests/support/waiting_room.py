"""Processes that share one key through the pure rules, checked at each of their steps: no store, no thread, no sleep.

It drives the rules as a gate does (clamp, prune, join, admit in one transaction; look first, by `outlook`) and keeps
books of its own about what must hold: I5, I6 (with a model of the exchange's call counter), I7, I8 and I10.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from persistent_nonce import nonces, recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.state import (
    CallRecord,
    Change,
    Changed,
    KeyState,
    Outcome,
    Rate,
    Recovery,
    Running,
    Waiting,
)
from tests.support.states import BOOT, KEY, WALL

__all__ = ["HOLD", "INTERVAL", "Caller", "WaitingRoom"]

INTERVAL = SECOND // 5
HOLD = 3 * SECOND
RATE = Rate(0.5, 4)

_EVERY = SECOND // 2
_LEAD = 900 * SECOND


@dataclass
class Caller:
    """A call as its own process knows it."""

    id: str
    session: str
    cost: int
    priority: int
    running: Running | None = None
    late: bool = False  # was ever passed over
    arrived: bool = False  # its request has reached the exchange


@dataclass
class WaitingRoom:
    """The state of a key, the time, the processes that use it, and the checks."""

    state: KeyState = field(
        default_factory=lambda: KeyState(
            KEY, unit="us", boot=BOOT, every=_EVERY, burst=RATE.burst
        )
    )
    wall: int = WALL
    mono: int = 1_000 * SECOND
    sessions: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    callers: dict[str, Caller] = field(default_factory=dict)
    records: dict[str, CallRecord] = field(default_factory=dict)
    transactions: int = 0
    # the books
    inside: dict[str, int] = field(default_factory=dict)  # id: overtaken after
    last_start: int = -INTERVAL
    level: int = 0  # the exchange's counter, as ns of draining
    arrived: int = 0  # when it was last charged
    seen: int = 0
    offset: int = 0
    back_off: int = 0  # as long as one may last from any clock step on
    turn: str | None = None
    begun: bool = False  # its turn; a clock set back does not undo that
    let_pass: dict[str, int] = field(default_factory=dict)  # ns of its turn, by id
    names: int = 0

    # --- time

    def now(self) -> Now:
        """Return the time."""
        return Now(self.wall, self.mono, BOOT)

    def advance(self, length: int) -> None:
        """Let time go by, and note how much of its turn the head lets pass."""
        begins = self._turn_begins()
        if self.turn is not None:
            let_pass = max(0, self.mono + length - max(self.mono, begins))
            self.let_pass[self.turn] = self.let_pass.get(self.turn, 0) + let_pass
        self.mono += length
        self.wall += length

    def step_clock(self, length: int) -> None:
        """Set the wall clock."""
        self.wall += length

    # --- processes

    def begin_session(self) -> str:
        """Start a process."""
        self.names += 1
        name = f"S{self.names}"
        self.sessions.append(name)
        return name

    def kill(self, session: str, share: float = 1.0) -> None:
        """Kill a process; the request of its call had arrived after `share` of its time so far."""
        for caller in [c for c in self.callers.values() if c.session == session]:
            self._arrive(caller, share)
            self.inside.pop(caller.id, None)
            del self.callers[caller.id]
        self.sessions.remove(session)
        self.stopped.discard(session)
        self.dead.add(session)

    def active(self, session: str) -> bool:
        """Tell whether a process lives and moves."""
        return session in self.sessions and session not in self.stopped

    # --- the steps of a call

    def join(self, session: str, *, cost: int = 1, priority: int = 0) -> Caller:
        """Stand in the queue, and start if it is the turn."""
        self.names += 1
        caller = Caller(f"{session}:{self.names}", session, cost, priority)
        self.callers[caller.id] = caller
        self.enter(caller)
        return caller

    def poll(self, caller: Caller) -> int:
        """Look at the state as a waiter does, and make a transaction if one can help; return the ns to wait."""
        wait = rules.outlook(self.state, self.now(), caller.id)
        if wait <= 0 or self._in_the_way() & self.dead:
            self.enter(caller)
            wait = 0
        return wait

    def enter(self, caller: Caller) -> None:
        """Make a waiter's transaction."""
        live = {c.id for c in self.callers.values() if c.session == caller.session}
        before = self.state
        self.let_pass.pop(caller.id, None)

        def change(state: KeyState, now: Now) -> Changed:
            state = rules.clamp(state, now)
            state, ended = rules.prune(state, now, self.dead, caller.session, live)
            waiting = Waiting(
                caller.id,
                caller.session,
                "Balance",
                caller.cost,
                caller.priority,
                now.mono,
            )
            state = rules.join(state, now, waiting)
            state, started = rules.admit(state, now, caller.id, hold=HOLD, durable=True)
            return Changed(state, (*ended, *started))

        self._update(change)
        running = self.state.running
        for call in (*self.state.queue, *([running] if running else ())):
            assert call.session != caller.session or call.id in live, "a left-over"
        mine = rules.mine(self.state, caller.id)
        assert (mine is None) == (running is not None and running.id == caller.id)
        if mine is None:
            assert running is not None
            caller.running = running
            self._check_start(caller, before)
        else:
            assert not mine.late, "a waiter that moves is at its ticket again (I7)"

    def finish(
        self, caller: Caller, outcome: Outcome = "ok", share: float = 1.0
    ) -> None:
        """End a call whose request arrived after `share` of its time."""
        assert caller.running is not None
        call = caller.running
        before = self.state
        if outcome == "invalid_nonce":
            self.back_off = max(self.back_off, 60 * SECOND)
        if outcome != "not_sent":
            self._arrive(caller, share)
        self._update(lambda s, now: rules.finish(s, now, call, outcome, Recovery()))
        running = before.running
        if running is None or running.id != call.id:
            assert self.state.running == running, "only its own call is ended (I5)"
            assert self.state.nonce == before.nonce
            assert self.state.refusals == before.refusals
        if outcome != "unknown":
            assert self.records[call.id].outcome == outcome
        self.inside.pop(call.id, None)
        del self.callers[caller.id]

    def leave(self, caller: Caller) -> None:
        """Take a call back, wherever it stands."""
        self._update(lambda s, now: rules.leave(s, now, caller.id))
        assert rules.mine(self.state, caller.id) is None
        self.inside.pop(caller.id, None)
        del self.callers[caller.id]

    def drop(self, caller: Caller, share: float = 1.0) -> None:
        """Forget a call without leaving, as an interrupt may; its session cleans up with its next step."""
        self._arrive(caller, share)
        self.inside.pop(caller.id, None)
        del self.callers[caller.id]

    def lockout(self, length: int) -> None:
        """Back off as after a reply that says so."""
        self.back_off = max(self.back_off, length)
        self._update(lambda s, now: Changed(recovery.lockout(s, now, length, "test")))
        assert recovery.rest(self.state, self.now(), 0) >= length

    def issue(self) -> None:
        """Take a nonce beside the gate."""
        before = self.state.nonce
        self._update(lambda s, now: Changed(nonces.issue(s, now)))
        assert self.state.nonce > before

    def raise_floor(self, ahead: int) -> None:
        """Set a floor so many ticks above the mark."""
        floor = self.state.nonce + ahead
        self.seen = max(self.seen, self.wall // 1_000)
        self.offset = max(self.offset, floor - self.seen)
        self._update(lambda s, now: Changed(nonces.raise_floor(s, now, floor)))

    def reopen(self) -> None:
        """Open the key again."""
        self._update(lambda s, now: Changed(nonces.reopen(s)))

    # --- progress

    def get_in(self, caller: Caller) -> None:
        """Let one waiter alone poll until it is in; all others that live have stopped (I7, I8)."""
        left = HOLD if self.state.running is not None else 0
        ahead = {c.session for c in self.state.queue} | {caller.session}
        wait = (
            left
            + max(INTERVAL, (RATE.burst + 2) * _EVERY)
            + recovery.rest(self.state, self.now(), 0)
            + len(ahead) * rules.PASS_OVER
            + 100
        )
        begun, tries = self.mono, 0
        while caller.running is None:
            length = self.poll(caller)
            if length:
                tries = 0
                self.advance(length)
                assert self.mono - begun <= wait, f"not in after {wait / SECOND} s"
            else:
                tries += 1
                assert tries < 5 + len(ahead), "transactions that change nothing"

    # --- the checks

    def _update(self, change: Change) -> None:
        before, now = self.state, self.now()
        state, records = change(before, now)
        assert change(before, now) == (state, records), "a change is pure"
        self.transactions += 1
        self.state = state
        for record in records:
            self.records[record.id] = record
        assert state.nonce >= before.nonce, "the mark never goes down (I10)"
        if before.running is not None and state.running != before.running:
            id = before.running.id
            assert id in self.records, "a call that ended is on record"
            if id in self.callers and self.mono > self.inside.get(id, self.mono):
                self._arrive(self.callers[id], 1.0)  # overtaken
        self._check_passed_over(before)
        self._turn_begins()
        for call in {c.id for c in before.queue} - {c.id for c in state.queue}:
            self.let_pass.pop(call, None)
        if state.nonce != before.nonce:
            self.seen = max(self.seen, self.wall // 1_000)
        bound = self.seen + self.offset + _LEAD // 1_000
        assert state.nonce <= bound, "no nonce above the bound (I10)"
        assert recovery.rest(state, now, 0) <= self.back_off, "a longer wait (I8)"

    def _in_the_way(self) -> set[str]:
        names = {call.session for call in self.state.queue}
        if self.state.running is not None:
            names.add(self.state.running.session)
        return names

    def _check_start(self, caller: Caller, before: KeyState) -> None:
        held = [id for id, until in self.inside.items() if self.mono <= until]
        assert not held, f"two in flight: {caller.id} beside {held} (I5)"
        assert self.mono - self.last_start >= INTERVAL, "too soon after the last (I6)"
        call = caller.running
        assert call is not None
        assert call.nonce == self.state.nonce > before.nonce
        mine = next((c for c in before.queue if c.id == caller.id), None)
        ticket = self.state.ticket if mine is None else mine.ticket
        for other in self.state.queue:
            known = self.callers.get(other.id)
            if other.late or caller.late or known is None or known.late:
                continue
            order = (-other.priority, other.ticket)
            assert order > (-caller.priority, ticket), f"overtook {other.id} (I7)"
        self.last_start = self.mono
        self.inside[caller.id] = self.mono + HOLD

    def _check_passed_over(self, before: KeyState) -> None:
        """Whoever lets a second of its turn pass goes behind the others, with its session: nobody else does."""
        late = {call.id for call in before.queue if call.late}
        passed = [c for c in self.state.queue if c.late and c.id not in late]
        if not passed:
            return
        for call in passed:
            if call.id in self.callers:
                self.callers[call.id].late = True
        assert len({call.session for call in passed}) == 1, "one session is late (I7)"
        longest = max(self.let_pass.pop(call.id, 0) for call in passed)
        assert longest >= SECOND, f"passed over after {longest / SECOND} s (I7)"

    def _turn_begins(self) -> int:
        """Note whose turn it is, and return from when on it could start."""
        order = sorted(self.state.queue, key=lambda c: (c.late, -c.priority, c.ticket))
        first = order[0] if order and self.state.running is None else None
        if first is None or first.id != self.turn:
            self.turn, self.begun = first.id if first else None, False
        if first is None or self.begun:
            return self.mono
        rest = recovery.rest(self.state, self.now(), first.priority)
        ready = max(self.last_start + INTERVAL, self.mono + rest)
        self.begun = ready <= self.mono
        return ready

    def _arrive(self, caller: Caller, share: float) -> None:
        """Charge the exchange's own counter, which drains from one arrival to the next (I6)."""
        call = caller.running
        if call is None or not caller.cost or caller.arrived:
            return
        caller.arrived = True
        until = min(self.mono, self.inside[caller.id])
        at = call.since + round(share * (until - call.since))
        drained = max(0, self.level - (at - self.arrived))
        self.level = drained + caller.cost * _EVERY
        self.arrived = at
        assert self.level <= RATE.burst * _EVERY, (
            f"the counter is at {self.level / _EVERY:.2f} of {RATE.burst} (I6)"
        )
