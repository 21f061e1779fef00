"""The rules of the machines: what processes do, and what befalls them, in any order that Hypothesis thinks of."""

from __future__ import annotations

import sys
from asyncio import CancelledError
from typing import Literal

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from persistent_nonce.clock import SECOND
from persistent_nonce.state import Rate, fingerprint
from persistent_nonce.stores.base import LEASE
from tests.support import machine_procedures as procedures
from tests.support.machine_exchange import Request
from tests.support.machine_handle import Place
from tests.support.machine_ledger import HOLD, INTERVAL
from tests.support.machine_procedures import Order
from tests.support.machine_world import KEYS, Actor, Process, World

__all__ = ["GUARD", "Interleavings"]

#: Seconds after which a machine is given up, generously: a guard, so many times what it takes.
GUARD = 120 + 5 * settings().max_examples

PICKS = st.integers(0, 31)
KEY = st.sampled_from([KEYS[0], KEYS[0], KEYS[0], KEYS[1]])
UNIT = st.sampled_from(["ms", "us", "ns"])
LENGTHS = st.sampled_from(
    [
        SECOND // 1_000,
        LEASE - 1,
        LEASE,
        SECOND // 20,
        INTERVAL - 1,
        INTERVAL,
        SECOND,
        HOLD - SECOND // 2,
        HOLD + 1,
    ]
)
BETWEEN = st.lists(st.none() | PICKS, max_size=12)
ORDERS = st.builds(
    Order,
    key=KEY,
    priority=st.sampled_from([0, 0, 0, 10, 20]),
    cost=st.integers(0, 2),
    timeout=st.sampled_from([60.0, 10.0, 1.0, 0.05]),
    durable=st.booleans(),
    ends=st.sampled_from(["ok", "ok", "error", "unknown", "not_sent"]),
    lasts=st.sampled_from([0.0, 0.0, 0.1, 1.0, 2 * HOLD / SECOND]),
    again=st.booleans(),
)


class Interleavings(RuleBasedStateMachine):
    """Several processes on one store, each procedure one step at a time (I1 to I8, I10)."""

    world: World

    def place(self) -> Place:
        """Return where the stores are to be."""
        raise NotImplementedError

    @initialize(
        units=st.tuples(UNIT, UNIT),
        rate=st.sampled_from([None, Rate(2.0, 2)]),
        count=st.integers(2, 4),
    )
    def begin(self, units: tuple[str, str], rate: Rate | None, count: int) -> None:
        """Start some processes."""
        self.world = World(self.place(), units, rate, note)
        for _ in range(count):
            self.world.begin_process()

    def _process(self, pick: int) -> Process:
        """Return a process that moves, if need be a new one."""
        moving = [p for p in self.world.processes if not p.stopped]
        return moving[pick % len(moving)] if moving else self.world.begin_process()

    def _any_process(self, pick: int) -> Process | None:
        found = self.world.processes
        return found[pick % len(found)] if found else None

    def _actor(self, pick: int) -> Actor | None:
        """Return a procedure that can go on now."""
        able = self.world.able()
        return able[pick % len(able)] if able else None

    def _calls(self, *, waiting: bool = False) -> list[Actor]:
        """Return the calls of processes that move, or of them those that wait for their turn."""
        calls = [actor for actor in self.world.moving() if actor.kind == "call"]
        return [call for call in calls if not waiting or call.deadline is not None]

    def _late(self, key: str) -> list[Request]:
        """Return the requests on their way for whose reply nobody waits any more."""
        names = {actor.name for p in self.world.processes for actor in p.actors}
        wire = self.world.exchanges[fingerprint(key)].wire
        return [request for request in wire if request.whose not in names]

    # --- what processes do

    @rule(calls=st.lists(st.tuples(PICKS, ORDERS), min_size=1, max_size=4))
    def begin_calls(self, calls: list[tuple[int, Order]]) -> None:
        """Have processes make calls through the gate, each up to four at once."""
        for pick, order in calls:
            process = self._process(pick)
            if len(process.actors) < 4:
                procedures.call(self.world, process, order)

    @rule(pick=PICKS, key=KEY, count=st.sampled_from([1, 2, 10]))
    def reserves_nonces(self, pick: int, key: str, count: int) -> None:
        """Have a process take some nonces without the gate."""
        procedures.reserve(self.world, self._process(pick), key, count)

    @rule(
        pick=PICKS,
        key=KEY,
        count=st.integers(1, 60),
        at_once=st.integers(0, 40),
        between=BETWEEN,
    )
    def takes_a_burst(
        self,
        pick: int,
        key: str,
        count: int,
        at_once: int,
        between: list[int | None],
    ) -> None:
        """Have a process take nonces one by one, some of them at once, where others come between draw and look."""
        actor = procedures.burst(self.world, self._process(pick), key, count)
        self._go_far(actor, at_once, between)

    @rule(pick=PICKS, key=KEY, seconds=st.sampled_from([-10, 0, 5, 86_400]))
    def sets_a_floor(self, pick: int, key: str, seconds: int) -> None:
        """Have an operator set a floor, so far from the exchange's."""
        world, name = self.world, fingerprint(key)
        floor = max(
            world.exchanges[name].greatest, world.clock.wall() // world.tick(name)
        )
        floor += seconds * SECOND // world.tick(name)
        procedures.raise_floor(world, self._process(pick), key, floor)

    # --- how they go on

    @precondition(lambda self: self.world.moving())
    @rule(pick=PICKS)
    def one_goes_on(self, pick: int) -> None:
        """Carry out one step of one procedure."""
        actor = self._actor(pick)
        if actor is not None:
            self.world.advance(actor)

    @precondition(lambda self: self.world.moving())
    @rule(picks=st.lists(PICKS, min_size=1, max_size=30))
    def some_go_on(self, picks: list[int]) -> None:
        """Carry out steps of procedures that can go on, or sleep until one can."""
        for pick in picks:
            actor = self._actor(pick)
            if actor is None:
                self.world.sleep()
                actor = self._actor(pick)
            if actor is not None:
                self.world.advance(actor)

    @precondition(lambda self: self.world.moving())
    @rule(rounds=st.integers(1, 30), slowly=st.booleans())
    def all_go_on(self, rounds: int, slowly: bool) -> None:
        """Carry out one step of each procedure in turn, or sleep until one can go on."""
        for _ in range(rounds):
            if slowly:
                self.world.pass_time(INTERVAL // 4)
            if not self.world.able():
                self.world.sleep()
            for actor in self.world.able():
                if actor in self.world.able():
                    self.world.advance(actor)

    @precondition(lambda self: self.world.moving())
    @rule(pick=PICKS, steps=st.integers(1, 12), between=BETWEEN)
    def one_goes_far(self, pick: int, steps: int, between: list[int | None]) -> None:
        """Carry out steps of one procedure, which sleeps no longer than it wants."""
        moving = self.world.moving()
        self._go_far(moving[pick % len(moving)], steps, between)

    def _go_far(self, actor: Actor, steps: int, between: list[int | None]) -> None:
        """Carry out steps of one procedure, with those of others in the middle of them."""
        self.world.between.extend(between)
        for _ in range(steps):
            if actor in self.world.moving():
                due = actor.procedure.due or 0
                self.world.pass_time(max(0, due - self.world.clock.mono()))
                self.world.advance(actor)
        self.world.between.clear()

    @precondition(lambda self: self.world.moving())
    @rule(pick=PICKS)
    def its_call_is_made(self, pick: int) -> None:
        """Make the call that a procedure waits for; it is not told yet."""
        actor = self._actor(pick)
        if actor is not None:
            self.world.make(actor)
            note(f"{actor} has a result that it does not know of")

    # --- what befalls them

    @rule(pick=PICKS, how=st.sampled_from(["killed", "killed", "exit"]))
    def ends(self, pick: int, how: str) -> None:
        """Kill a process between two steps, or let it exit with calls on their way; start another."""
        process = self._process(pick)
        if how == "exit":
            self.world.exit(process)
        else:
            self.world.crash(process)
        self.world.begin_process()

    @rule(pick=PICKS, point=st.integers(0, 11))
    def is_killed_in_a_transaction(self, pick: int, point: int) -> None:
        """Kill a process inside its next transaction."""
        actor = self._actor(pick)
        if actor is not None and not actor.procedure.made:
            process = self.world.process_of(actor)
            self.world.place.arm(process.store.inner, point)
            self.world.advance(actor)
            if process in self.world.processes:
                self.world.crash(process)

    @precondition(lambda self: self._calls())
    @rule(pick=PICKS, made=st.booleans())
    def is_cancelled(self, pick: int, made: bool) -> None:
        """Cancel a task before or after the call was made that it waits for."""
        tasks = self._calls()
        actor = tasks[pick % len(tasks)]
        note(f"{actor} is cancelled")
        if not made or self.world.make(actor):
            self.world.resume(actor, CancelledError())

    @precondition(lambda self: self._calls(waiting=True))
    @rule(pick=PICKS)
    def is_dropped(self, pick: int) -> None:
        """Drop a call on its way in, as when its loop is closed."""
        tasks = self._calls(waiting=True)
        actor = tasks[pick % len(tasks)]
        note(f"{actor} is dropped")
        self.world.drop(actor)

    @rule(pick=PICKS)
    def is_stopped(self, pick: int) -> None:
        """Stop a process, by a signal or in a blocked loop."""
        process = self._any_process(pick)
        if process is not None:
            note(f"{process} stops")
            process.stopped = True

    @precondition(lambda self: any(p.stopped for p in self.world.processes))
    @rule(pick=PICKS)
    def is_continued(self, pick: int) -> None:
        """Let a stopped process go on."""
        stopped = [p for p in self.world.processes if p.stopped]
        stopped[pick % len(stopped)].stopped = False

    @rule(length=LENGTHS)
    def time_passes(self, length: int) -> None:
        """Let time go by, in which nobody moves."""
        self.world.pass_time(length)

    @rule(seconds=st.sampled_from([-86_400, -3_600, -2, 2, 3_600]))
    def the_clock_is_set(self, seconds: int) -> None:
        """Set the wall clock."""
        self.world.step_clock(seconds * SECOND)

    @rule(key=KEY, why=st.sampled_from(["whim", 1, 45, 300, 3_000]))
    def the_exchange_refuses(self, key: str, why: Literal["whim"] | int) -> None:
        """Have the next nonce refused, without reason or since a foreign program is so far ahead."""
        name = fingerprint(key)
        exchange = self.world.exchanges[name]
        if why == "whim":
            exchange.capricious += 1
        else:
            tick = self.world.tick(name)
            ahead = max(exchange.greatest, self.world.clock.wall() // tick)
            exchange.raise_floor(ahead + int(why) * SECOND // tick)

    @precondition(lambda self: any(map(self._late, KEYS)))
    @rule(key=KEY)
    def a_late_request_arrives(self, key: str) -> None:
        """Have a request arrive for whose reply nobody waits any more."""
        for request in self._late(key)[:1]:
            self.world.exchanges[fingerprint(key)].deliver(request)

    def teardown(self) -> None:
        """When everybody else has stopped, a newcomer gets in; then all come to their end."""
        if not hasattr(self, "world"):
            return
        try:
            if sys.exc_info()[0] is None:
                note("--- all comes to rest")
                procedures.settle(self.world)
        finally:
            self.world.bury_all()
