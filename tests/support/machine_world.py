"""Simulated processes that share a store, and all that may befall them; the books and the exchange check each step."""

from __future__ import annotations

from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import (
    GateTimeoutError,
    InvalidNonceError,
    KeyClosedError,
    LockedOutError,
    NonceRangeError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Rate, fingerprint
from persistent_nonce.steps import Steps, do
from tests.support.clocks import StillClock
from tests.support.machine_exchange import Exchange
from tests.support.machine_handle import Handle, Place
from tests.support.machine_ledger import HOLD, Caller, Ledger
from tests.support.machine_runner import Killed, Procedure

__all__ = ["KEYS", "Actor", "Process", "World"]

#: The API keys of the machines.
KEYS: Final = ("first key", "second key")


@dataclass(eq=False)
class Process:
    """A simulated process: a store of its own, procedures that it runs, and what its providers have set apart."""

    name: str
    store: Handle
    stopped: bool = False
    actors: list[Actor] = field(default_factory=list)
    providers: dict[str, NonceProvider] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


@dataclass(eq=False, repr=False)
class Actor(Caller):
    """A procedure of a process, with what the books know of it.

    Attributes:
        kind: "call", "nonce" (one or more without a gate, or a floor) or "ending" (what `later` leaves to a thread).
        patience: ns that it will wait for its turn, and as many more that an earlier refusal may excuse.
        deadline: `mono` at which its wait ends at the latest; None while it does not wait.
        overdue: steps it went on waiting after that.
        acted: `mono` of its last two calls.
    """

    kind: str = "call"
    key: str = ""
    patience: tuple[int, int] | None = None
    deadline: int | None = None
    earliest: int = 0
    overdue: int = 0
    acted: tuple[int, int] = (0, 0)
    in_body: bool = False
    procedure: Procedure = field(init=False)


class World:
    """The host: its clock, its processes, the exchange, and the books.

    Args:
        place: where the stores are.
        units: of the keys' nonces.
        rate: of the exchange's call counter, for both keys.
        say: told of everything that happens, in words.

    Attributes:
        between: who goes on wherever in a step there is room for it, one number for each place; None for nobody.
        disturbed: how often somebody did.
    """

    def __init__(
        self,
        place: Place,
        units: Iterable[str],
        rate: Rate | None,
        say: Callable[[str], None],
    ) -> None:
        self.place = place
        self.rate = rate
        self.say = say
        self.clock = StillClock(name="boot-1")
        self.steps = 0
        self.boots = 1
        self.processes: list[Process] = []
        self.actor: Actor | None = None
        self.units = {
            fingerprint(key): unit for key, unit in zip(KEYS, units, strict=True)
        }
        self.ledgers = {key: Ledger(unit) for key, unit in self.units.items()}
        self.exchanges = {key: Exchange(rate) for key in self.units}
        self.between: deque[int | None] = deque()
        self.disturbed = 0
        self._busy: list[Actor] = []  # whose step is being made, the outermost first
        self._names = 0

    def tick(self, key: str) -> int:
        """Return the nanoseconds in a tick of a key."""
        return self.ledgers[key].tick

    # --- processes and procedures

    def begin_process(self) -> Process:
        """Start a process."""
        self._names += 1
        store = Handle(self, self.place.open(self.clock))
        process = Process(f"bot {self._names}", store)
        self.processes.append(process)
        return process

    def provider(self, process: Process, key: str) -> NonceProvider:
        """Return a process's provider of `key`: always the same, since it has nonces that were set apart."""
        if key not in process.providers:
            unit = self.units[fingerprint(key)]
            process.providers[key] = NonceProvider(process.store, key, unit=unit)
        return process.providers[key]

    def start(self, process: Process, actor: Actor, steps: Steps[Any]) -> None:
        """Begin a procedure: it runs up to its first step."""
        self._names += 1
        actor.name = f"{actor.name}-{self._names} of {process}"
        actor.asked = self.steps = self.steps + 1
        actor.procedure = Procedure(self._names, actor.name, steps)
        process.actors.append(actor)
        actor.procedure.begin(self.clock.mono())
        self.say(f"{actor} begins")

    def ends_later(self, store: Handle, work: Callable[[], None]) -> None:
        """Start the thread with which a store ends a call that nobody waits for."""
        process = next(p for p in self.processes if p.store is store)

        async def steps() -> None:
            await do(work)

        actor = Actor("ending", process.name, kind="ending")
        self.start(process, actor, steps())

    def able(self) -> list[Actor]:
        """Return the procedures that can go on now."""
        now = self.clock.mono()
        return [a for a in self.moving() if (a.procedure.due or 0) <= now]

    def moving(self) -> list[Actor]:
        """Return the procedures of processes that are not stopped."""
        return [a for p in self.processes if not p.stopped for a in p.actors]

    def process_of(self, actor: Actor) -> Process:
        """Return the process of a procedure."""
        return next(p for p in self.processes if actor in p.actors)

    # --- one step of a procedure

    def make(self, actor: Actor) -> bool:
        """Have the call made that a procedure waits for; False if its process did not outlive it."""
        self.actor = actor
        self._busy.append(actor)
        if not actor.procedure.made:
            actor.acted = actor.acted[1], self.clock.mono()
        try:
            actor.procedure.make()
        except Killed:
            self.crash(self.process_of(actor))
            return False
        finally:
            self._busy.pop()
            self.actor = None
        return True

    def advance(self, actor: Actor) -> None:
        """Carry out one step of a procedure."""
        if self.make(actor):
            self.resume(actor, None)

    def give_way(self) -> None:
        """In the middle of one procedure's step, carry out one of another: of a process, or of a thread beside it."""
        pick = self.between.popleft() if self.between else None
        others = [] if pick is None else [a for a in self.able() if a not in self._busy]
        if pick is None or not others:
            return
        self.disturbed += 1
        outer, other = self.actor, others[pick % len(others)]
        self.say(f"in the middle of the step of {outer}:")
        try:
            self.advance(other)
        except Exception as error:
            raise AssertionError(f"{other} failed") from error
        finally:
            self.actor = outer

    def resume(self, actor: Actor, error: BaseException | None) -> None:
        """Let a procedure go on to its next step, with the result of the last, or with `error`."""
        self.steps += 1
        now, procedure = self.clock.mono(), actor.procedure
        if actor.patience is not None:  # its session is there: from now on it waits
            own, excused = actor.patience
            actor.earliest, actor.deadline = now + own, now + own + excused
            actor.patience = None
        if error is None:
            procedure.resume(now)
        else:
            if not actor.in_body:
                self.release(actor)
            procedure.strike(error, now)
        if procedure.ended:
            self.process_of(actor).actors.remove(actor)
            self.release(actor)
            self.say(f"{actor} ends: {procedure.error!r} {procedure.result}")
            self._check_end(actor)
            return
        if actor.deadline is None or actor.in_body:
            return
        actor.overdue += now > actor.deadline
        assert actor.overdue < 6, f"{actor} waits on after its time (I8)"
        if procedure.due is not None:
            pause = procedure.due - now
            assert 0 <= pause <= SECOND, f"{actor} pauses for {pause} ns (I8)"
            assert procedure.due <= actor.deadline, f"{actor} sleeps too long (I8)"

    def _check_end(self, actor: Actor) -> None:
        """Check that a procedure ends with an error only for a reason that the books know."""
        error = actor.procedure.error
        if isinstance(error, GateTimeoutError) and "learned of its turn" in str(error):
            late = self.clock.mono() - actor.acted[0]  # the last was to leave
            assert late > HOLD, f"{actor} had learned of it in time (I5)"
        elif isinstance(error, GateTimeoutError):
            early = actor.earliest - self.clock.mono()
            assert early <= 0, f"{actor} gave up {early} ns early (I8)"
        elif isinstance(error, (InvalidNonceError, LockedOutError, KeyClosedError)):
            assert self.ledgers[actor.key].refusals, "nothing was refused"
        elif not isinstance(
            error, NonceRangeError | CancelledError | ConnectionError | None
        ):
            raise error

    def drop(self, actor: Actor) -> None:
        """Let go of a procedure, whose finalizers run and wait for nothing."""
        self.process_of(actor).actors.remove(actor)
        self.release(actor)
        actor.procedure.drop()

    def release(self, actor: Actor) -> None:
        """Note that a procedure uses no nonce any more."""
        if actor.key:
            self.ledgers[actor.key].left(actor)

    # --- time

    def pass_time(self, length: int) -> None:
        """Let time go by."""
        self.clock.now += length
        self.clock.up += length

    def sleep(self) -> bool:
        """Let time go by until a procedure can go on; False if there is none."""
        moving = self.moving()
        if not moving:
            return False
        now = self.clock.mono()
        due = min(actor.procedure.due or 0 for actor in moving)
        if due > now:
            self.pass_time(due - now)
        return True

    def step_clock(self, length: int) -> None:
        """Set the wall clock."""
        self.clock.now += length
        for ledger in self.ledgers.values():
            ledger.stepped(length)

    # --- faults

    def crash(self, process: Process) -> None:
        """Kill a process: the kernel frees what it held, its procedures vanish."""
        self.say(f"{process} is killed")
        self.place.crash(process.store.inner)
        self._vanish(process)

    def exit(self, process: Process) -> None:
        """End a program with its store closed, whatever its threads were doing."""
        self.say(f"{process} exits")
        process.store.close()
        self._vanish(process)

    def _vanish(self, process: Process) -> None:
        self.processes.remove(process)
        process.store.gone = True
        for actor in process.actors:
            actor.procedure.bury()
            self.release(actor)

    def reboot(self) -> None:
        """Begin another boot, after all processes are gone."""
        while self.processes:
            self.crash(self.processes[0])
        self.boots += 1
        self.clock.name = f"boot-{self.boots}"
        self.clock.up = 100 * SECOND
        for key, ledger in self.ledgers.items():
            ledger.reboot(self.clock.up)
            self.exchanges[key].reboot(self.clock.up)

    def bury_all(self) -> None:
        """End everything, whatever state it is in."""
        for process in self.processes:
            process.store.gone = True
            for actor in process.actors:
                actor.procedure.bury()
        self.place.close()
