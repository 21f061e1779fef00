"""Books of one key, kept beside the state: who may be in flight, who came first, how far the mark may have moved.

Each commit is looked at, and each nonce that reached its caller. The books know the time and who acts; of the state
they believe nothing that they can know themselves.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.state import UNITS, URGENT, KeyState, Outcome, Recovery, Waiting
from persistent_nonce.stores.base import LEASE
from tests.support.checker import Operation, violations

__all__ = ["HOLD", "INTERVAL", "RECOVERY", "Caller", "Ledger", "Sent", "room"]

#: How long a call may last, and how far apart two begin at least, in nanoseconds.
HOLD: Final = 3 * SECOND
INTERVAL: Final = SECOND // 5

#: What is done about a refused nonce; the back-off is short, so that tests see the end of it.
RECOVERY: Final = Recovery(jump=60, wait=5, factor=10, attempts=3, max_lead=300)

#: The longest back-off there is before the key is closed, in nanoseconds.
_LONGEST: Final = round(max(2, RECOVERY.wait * (RECOVERY.attempts - 2)) * SECOND)

#: Nonces that are taken without a jump: the greatest reservation.
_FEW: Final = 10


@dataclass(eq=False, repr=False)
class Caller:
    """A procedure as the books know it.

    Attributes:
        process: the name of its process.
        asked: when its current nonce was asked for, as a number of steps.
        moved: `mono` of its last transaction.
        id: of its call, once that has begun.
        floor: the floor that it sets, if it does that.
        refused: its nonce was, by the exchange.
        bursts: it takes nonces one after the other, for which several may be set apart at once.
    """

    name: str
    process: str
    priority: int = 0
    asked: int = 0
    moved: int = 0
    id: str = ""
    floor: int | None = None
    refused: bool = False
    bursts: bool = False

    def __repr__(self) -> str:
        return self.name


class Sent(NamedTuple):
    """What a call's own process knows of its end."""

    process: str
    outcome: Outcome
    durable: bool


@dataclass
class Ledger:
    """The books of one key; every check names the guarantee."""

    unit: str
    history: list[Operation] = field(default_factory=list)
    floors: list[Operation] = field(default_factory=list)
    inside: dict[Caller, int] = field(default_factory=dict)  # until, mono
    places: dict[str, tuple[int, Caller]] = field(default_factory=dict)  # by id
    sent: dict[int, Sent] = field(default_factory=dict)  # by nonce
    stored: list[KeyState] = field(default_factory=list)  # one of them is
    last_start: int = -INTERVAL
    seen: int = 0
    offset: int = 0
    used: bool = False
    woke: int = 0  # mono; nobody starts within the interval after it
    refusals: int = 0
    jumps: int = 0
    back_off: tuple[int, bool] = (0, False)  # until, mono; whether urgent ones go on
    drawn: Counter[str] = field(default_factory=Counter)  # by process, one at a time
    burst: dict[str, int] = field(default_factory=dict)  # mono, likewise
    changes: int = 0  # of the mark

    @property
    def tick(self) -> int:
        """Nanoseconds in a tick."""
        return UNITS[self.unit]

    @property
    def bound(self) -> int:
        """The greatest nonce there may be (I10)."""
        lead = round(RECOVERY.max_lead * SECOND)
        return self.seen + self.offset + lead // self.tick

    # --- what reached a caller

    def took(self, caller: Caller, values: range, step: int) -> None:
        """Note nonces that a caller has: new, and above all that others had when it asked (I1, I2, I4)."""
        self.drawn[caller.process] += caller.bursts
        for value in {values[0], values[-1]}:
            self.history.append(Operation(caller.asked, step, value))
        found = violations(self.history)
        assert not found, f"{caller}: {found[0]} (I1, I2, I4)"
        for floor in self.floors:
            assert floor.returned > caller.asked or values[0] > floor.value, (
                f"{caller}: {values[0]} is not above the floor {floor.value} (I10)"
            )
        assert values[-1] <= self.bound, f"{caller}: {values[-1]} lies too high (I10)"

    def entered(self, caller: Caller, nonce: int, mono: int, step: int) -> None:
        """Note that a call's body begins."""
        self.took(caller, range(nonce, nonce + 1), step)
        assert caller in self.inside, f"{caller} has a nonce and no turn (I5)"
        others = [
            c for c, until in self.inside.items() if mono <= until and c is not caller
        ]
        late = mono > self.inside[caller]
        assert late or not others, f"in flight are {caller} and {others} (I5)"

    def left(self, caller: Caller) -> None:
        """Note that a call's nonce is used no more: its body has ended, or its process has."""
        self.inside.pop(caller, None)

    def raised(self, caller: Caller, mark: int, step: int) -> None:
        """Note that a floor was set."""
        assert caller.floor is not None, "it sets none"
        assert mark >= caller.floor, "the floor is kept (I10)"
        self.floors.append(Operation(caller.asked, step, caller.floor))

    def check_range(self, state: KeyState, now: Now) -> None:
        """Check that a nonce was refused for its range only where there is none left (I10)."""
        assert room(state, now) < _FEW, "no nonce, and room below the bound (I10)"

    # --- what was stored

    def committed(
        self, caller: Caller | None, before: KeyState, after: KeyState, now: Now
    ) -> None:
        """Check a change that was stored, by a caller or by whoever ends a call for it."""
        if self.stored and before.boot == self.stored[0].boot:
            known = [_essence(state) for state in self.stored]
            assert _essence(before) in known, "a commit was lost, or not seen (I2)"
        if len(self.stored) != 1 or before.boot != self.stored[0].boot:
            self.woke = now.mono  # it may be this change that wakes the key
        self.stored, self.used = [after], True
        ids = [call.id for call in after.queue]
        ids += [after.running.id] if after.running is not None else []
        assert len(ids) == len(set(ids)), "a call has two places"
        self._check_mark(caller, before, after, now)
        self._check_recovery(before, after, now)
        self._check_queue(caller, before, after, now)
        running = after.running
        if running is not None and running != before.running:
            assert caller is not None, "who starts calls itself"
            caller.id = running.id
            self._check_start(caller, before, after, now)
        elif caller is not None and caller.id in {call.id for call in after.queue}:
            self._check_wait(caller, after, now)

    def perhaps(self, caller: Caller, changes: list[tuple[KeyState, KeyState]]) -> None:
        """Note that a process was killed while it stored changes: each may be, or only its ceiling."""
        if self.stored:  # else the key may still have to wake, at another time
            self.stored += [state for change in changes for state in change]
        for _, after in changes:
            for call in after.queue:
                self.places.setdefault(call.id, (len(self.places), caller))
            self.seen = max(self.seen, after.seen)
            self.offset = max(self.offset, after.offset)

    def stepped(self, length: int) -> None:
        """Note that the wall clock was set; ahead, that ends a back-off early."""
        if length > 0:
            self.back_off = (0, False)

    def forget(self) -> None:
        """Note that the power was cut: what was not on the disk is gone, and the records with it."""
        self.sent = {nonce: sent for nonce, sent in self.sent.items() if sent.durable}

    def reboot(self, mono: int) -> None:
        """Note that all processes are gone; what waits for `mono` begins anew."""
        self.stored.clear()
        self.inside.clear()
        if self.last_start >= 0:
            self.last_start = mono
        self.back_off = (0, False)

    def _check_mark(
        self, caller: Caller | None, before: KeyState, after: KeyState, now: Now
    ) -> None:
        """Check that the mark rises by what was asked for, within the bound (I10)."""
        assert after.nonce >= before.nonce, "the mark never goes down (I10)"
        assert after.seen >= before.seen, "a reading is forgotten (I10)"
        assert after.offset >= before.offset, "a floor is forgotten (I10)"
        for state in (before, after):
            assert state.nonce <= state.bound, "the mark lies above its bound (I10)"
        if after.nonce == before.nonce:
            return
        self.changes += 1
        reading = now.wall // self.tick
        self.seen = max(self.seen, reading)
        if caller is not None and caller.floor == after.nonce:
            # What a killed process has seen was perhaps never stored, and counts for the bound only then.
            stored = max(before.seen, reading)
            self.offset = max(self.offset, after.nonce - min(self.seen, stored))
            return
        assert after.nonce <= self.bound, f"{after.nonce} > {self.bound} (I10)"
        moved = after.nonce - max(before.nonce, reading)
        if caller is not None and caller.bursts:
            self._check_block(caller, moved, now)
            return
        if moved <= _FEW:
            return
        self.jumps += 1
        assert self.jumps <= self.refusals, "a jump without a refusal (I10)"
        distance = RECOVERY.jump * RECOVERY.factor ** (after.refusals - 1)
        assert moved * self.tick <= distance * SECOND, "a jump too far (I10)"

    def _check_block(self, caller: Caller, size: int, now: Now) -> None:
        """Check that no more is set apart than was used before, or none at all after a pause (I10)."""
        used, last = self.drawn[caller.process], self.burst.get(caller.process)
        self.burst[caller.process] = now.mono
        most = max(2 * used, LEASE // self.tick)
        if last is None or now.mono - last > LEASE:
            most = 1
        assert size <= most, f"{caller} sets {size} apart, {used} were used (I10)"

    def _check_recovery(self, before: KeyState, after: KeyState, now: Now) -> None:
        """Check that a refusal counts once: it makes one jump and one back-off, or closes the key."""
        left = after.not_before - max(now.wall, after.set_at)
        assert left <= _LONGEST, f"a back-off of {left / SECOND} s (I8)"
        if after.refusals <= before.refusals:
            return
        refused = before.running
        assert refused is not None, "a refusal counts of a call that has ended"
        place = self.places.get(refused.id)
        assert place is not None, "a refusal counts of a call that never joined"
        assert place[1].refused, f"{place[1]} was not refused, and counts"
        place[1].refused = False  # once
        assert after.refusals == before.refusals + 1, "a refusal counts twice"
        if after.closed:
            return
        assert after.nonce > min(refused.nonce, after.bound - 1), "no jump"
        first = after.refusals == 1
        length = 2.0 if first else RECOVERY.wait * (after.refusals - 1)
        self.back_off = (now.mono + round(length * SECOND), first)

    def _check_queue(
        self, caller: Caller | None, before: KeyState, after: KeyState, now: Now
    ) -> None:
        """Note who came first, and check that only who let its turn pass is late (I7)."""
        old = {call.id: call for call in before.queue}
        for call in after.queue:
            if call.id not in old and call.id not in self.places:
                assert caller is not None, "who joins does it itself"
                self._joins(caller, call)
        if caller is not None:
            caller.moved = now.mono
        late = [
            c for c in after.queue if c.late and not (c.id in old and old[c.id].late)
        ]
        moved = [self.places[call.id][1].moved for call in late]
        assert not moved or now.mono - min(moved) >= SECOND, (
            f"passed over after {(now.mono - min(moved)) / SECOND} s (I7)"
        )

    def _joins(self, caller: Caller, call: Waiting) -> None:
        caller.id = call.id
        self.places[call.id] = (len(self.places), caller)

    def _check_start(
        self, caller: Caller, before: KeyState, after: KeyState, now: Now
    ) -> None:
        """Check a start: one in flight, at the pace, in the order (I5, I6, I7)."""
        others = [c for c, until in self.inside.items() if now.mono <= until]
        assert not others, f"in flight are {caller} and {others} (I5)"
        since = now.mono - self.last_start
        assert since >= INTERVAL, f"{caller} starts {since} ns after the last (I6)"
        until, first = self.back_off
        assert now.mono >= until or (first and caller.priority >= URGENT), (
            f"{caller} starts in the back-off"
        )
        place = self.places.setdefault(caller.id, (len(self.places), caller))[0]
        for call in after.queue:
            other, who = self.places[call.id]
            assert call.late or (-who.priority, other) > (-caller.priority, place), (
                f"{caller} overtook {who} (I7)"
            )
        self.last_start = now.mono
        self.inside[caller] = now.mono + HOLD

    def _check_wait(self, caller: Caller, after: KeyState, now: Now) -> None:
        """Check that who goes on waiting has a reason to; of back-offs and the counter others know (I7, I8)."""
        place = self.places[caller.id][0]
        ahead = [
            who
            for call in after.queue
            for other, who in [self.places[call.id]]
            if not call.late and (-who.priority, other) < (-caller.priority, place)
        ]
        last = max(self.last_start, self.woke)
        free = after.running is None and after.every is None and not self.refusals
        assert ahead or not free or now.mono < last + INTERVAL, (
            f"{caller} waits for nothing (I8)"
        )


def room(state: KeyState, now: Now) -> int:
    """Return how many nonces the stored bound leaves (I10)."""
    seen = max(state.seen, now.wall // state.tick)
    return state._replace(seen=seen).bound - state.nonce


def _essence(state: KeyState) -> KeyState:
    """Return `state` without what the commit of a ceiling changes."""
    return state._replace(unit=None, seen=0, offset=0, ceiling=0, synced=0)
