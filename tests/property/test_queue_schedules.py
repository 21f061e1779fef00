"""Seeded schedules of processes that are killed, stopped and cancelled; planted faults, each of which must be found.

The rules pass every schedule. A test that nothing could fail would too: so each fault of tests.support.planted_rules is
planted in turn, and some schedule has to show it.
"""

from __future__ import annotations

import os
import random

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.state import Outcome
from tests.support.planted_rules import FAULTS
from tests.support.waiting_room import HOLD, Caller, WaitingRoom

MILLISECOND = SECOND // 1_000
STEPS = 400
SCHEDULES = {"deep": 5_000, "ci": 300}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 80)

OUTCOMES: tuple[Outcome, ...] = ("ok",) * 6 + ("error", "unknown", "not_sent")


class Schedule:
    """One run of several processes, each with at most two calls, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.room = WaitingRoom()
        self.goes_on: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        for _ in range(5):
            self.room.begin_session()

    def run(self) -> None:
        """Carry the schedule out, then let a newcomer in."""
        for _ in range(STEPS):
            self.step()
        room = self.room
        room.stopped |= set(room.sessions)
        room.get_in(room.join(room.begin_session()))

    def step(self) -> None:
        """Let a little time go by and one process act."""
        choose, room = self.random, self.room
        room.advance(choose.choice((1, 5, 20, 50)) * MILLISECOND)
        if choose.random() < 0.02:
            room.step_clock(choose.choice((-3_600, -2, 2, 3_600)) * SECOND)
        for name, when in list(self.goes_on.items()):
            if when <= room.mono:
                room.stopped.discard(name)
                del self.goes_on[name]
        session = choose.choice(room.sessions)
        if choose.random() < 0.03:
            self.strike(session)
        elif room.active(session):
            self.act(session)

    def strike(self, session: str) -> None:
        """Have something happen to a process."""
        choose, room = self.random, self.room
        kind = choose.choice(("kill", "stop", "stop", "cancel", "drop", "lockout"))
        calls = self.calls(session)
        if kind == "kill":
            room.kill(session, choose.random())
            room.begin_session()
        elif kind == "stop":
            room.stopped.add(session)
            length = choose.choice((500, 2_000, 8_000)) * MILLISECOND
            self.goes_on[session] = room.mono + length
        elif kind == "lockout":
            room.lockout(choose.choice((1, 3)) * SECOND)
        elif calls and room.active(session):
            call = choose.choice(calls)
            if kind == "drop":
                room.drop(call, choose.random())
            elif call.running is None:
                room.leave(call)

    def act(self, session: str) -> None:
        """Let each of a process's calls take a step, and perhaps begin another."""
        choose, room = self.random, self.room
        for call in self.calls(session):
            if call.running is None:
                room.poll(call)
            elif self.ends.setdefault(call.id, self.end()) <= room.mono:
                room.finish(call, choose.choice(OUTCOMES), choose.random())
        if len(self.calls(session)) < 2 and choose.random() < 0.5:
            room.join(
                session,
                cost=choose.choice((0, 1, 1, 2)),
                priority=choose.choice((0,) * 9 + (20,)),
            )

    def end(self) -> int:
        """Return when a call that begins now ends: mostly soon, sometimes too late."""
        choose = self.random
        length = choose.choice((20, 50, 400)) * MILLISECOND
        return self.room.mono + (HOLD * 2 if choose.random() < 0.03 else length)

    def calls(self, session: str) -> list[Caller]:
        """Return the calls of a process."""
        return [c for c in self.room.callers.values() if c.session == session]


def fault_found(schedules: int) -> str | None:
    """Return what the first failing schedule showed."""
    for seed in range(schedules):
        try:
            Schedule(seed).run()
        except AssertionError as error:
            return f"schedule {seed}: {error}"
    return None


def test_no_schedule_breaks_the_rules() -> None:
    """No schedule shows two in flight, a start too soon, an order broken, a wait too long (I5 to I8, I10)."""
    assert fault_found(SCHEDULES) is None


@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule broken in this way is shown by some schedule."""
    FAULTS[name](monkeypatch)
    found = fault_found(300)
    assert found is not None
