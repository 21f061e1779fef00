"""The way into a gate: stand in the queue, look at the state, start when it is the turn.

How each guarantee is kept here, numbered as in the README:

    I7  a waiter looks at the state without a lock, more often the nearer it is
    I8  every wait ends at a deadline; the error names who has the turn
"""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import Final

from persistent_nonce import recovery, rules
from persistent_nonce.candidate import Candidate, Passage, attempt
from persistent_nonce.clock import SECOND, Now, nanoseconds
from persistent_nonce.errors import GateTimeoutError, StoreTimeoutError
from persistent_nonce.messages import COUNTER, locked_out, timed_out, waits_for
from persistent_nonce.room import Room
from persistent_nonce.state import KeyState, Running
from persistent_nonce.steps import do, pause

__all__ = ["Entrance", "Passage", "check_turn"]

_LOG: Final = logging.getLogger("persistent_nonce")

#: Seconds between two looks of the next in line, at random; a fiftieth of how long the call ahead has lasted, up to a
#: limit, where that is more; those behind look less often.
_LOOK: Final = (0.001, 0.0022)
_LOOK_PART: Final = 50
_LOOK_LONGEST: Final = 0.01
_LOOK_BEHIND: Final = 5.0  # times as long for each place further back
_LOOK_SELDOM: Final = 0.1

#: Seconds between two probes of whether the sessions ahead still live, for the next in line.
_PROBE: Final = 0.05

#: The longest pause in one piece, in seconds.
_LONGEST: Final = 1.0

#: Nanoseconds of waiting for the call counter that are worth a warning, once a minute and key.
_LONG: Final = 5 * SECOND
_quiet_until: Final[dict[str, int]] = {}


class Entrance(Candidate):
    """A call's wait for its turn."""

    _next_probe = 0
    _room: Room | None = None  # of one that waits on an event loop

    async def wait(self) -> Running:
        """Wait for the turn and return the call, which has begun.

        Raises:
            GateTimeoutError, LockedOutError, KeyClosedError: there was no turn; the call may stand in the queue still.
            NonceError: as from a provider.
        """
        room = self._room = None if self.bell is None else Room.of(self)
        if room is None:
            return await self._wait()
        try:
            return await self._wait()
        except (GeneratorExit, StoreTimeoutError):
            # Nothing can be awaited any more; or its own transaction has ended, and the next one waits as long (I8).
            raise
        except BaseException:
            room.leave(self)  # no transaction takes it up any more
            await do(room.settle)
            raise
        finally:
            room.leave(self)

    async def _wait(self) -> Running:
        started = self.store.clock.mono()
        state = await self._ask()
        deadline = started + self._allowed(state)
        reason, seen, since = "", None, 0
        while state.running is None or state.running.id != self.id:
            now, self.dead = self.store.now(), frozenset()
            self._check_time(state, now, deadline)
            if self._room is not None and self._room.watch is not self:
                reason = reason or waits_for(state, now, self.id)
                state = await self._rest(self._room, deadline - now.mono)
                continue
            wait = rules.outlook(state, now, self.id)
            if wait > 0:
                if state is not seen or state.running is None:
                    reason = waits_for(state, now, self.id)
                if state is not seen:
                    seen, since = state, now.mono
                wait = min(wait, deadline - now.mono)
                rung = await pause(self._patience(state, wait, now.mono - since))
                state = await (self._ask() if rung else self._see(state))
            if wait <= 0 or self.dead:
                state = await self._ask()
        if reason:
            self._log_wait(state, state.running.waited, reason)
        return state.running

    async def _ask(self) -> KeyState:
        """Stand in the queue and start if it is the turn."""
        room = self._room
        if room is None:
            return await do(partial(attempt, [self]))
        room.ask(self)
        state = await do(partial(room.serve, self))
        if state.running is None or state.running.id != self.id:
            room.enter(self)
        else:
            room.inside = self.id
        room.see(state, self)
        return state

    async def _see(self, state: KeyState) -> KeyState:
        """Return a newer state than `state`: one that was shown to the room, or that of now."""
        room = self._room
        probed = self.store.clock.mono() < self._next_probe
        if room is not None and room.state is not state and probed:
            return room.state
        state, self.dead = await do(self._look)
        if room is not None:
            room.see(state, self)
        return state

    async def _rest(self, room: Room, left: int) -> KeyState:
        """Wait until there is something to be done, or the time is over, and return the state."""
        await pause(left / (SECOND * self.store.clock.scale))
        return await self._ask() if self.due else room.state

    def _log_wait(self, state: KeyState, waited: int, reason: str) -> None:
        name, key = self.passage.method, self.key
        _LOG.debug(
            "%s of key %s waited %d ms for %s", name, key, waited // 1_000_000, reason
        )
        now = self.store.now().mono
        if reason != COUNTER or waited < _LONG or now < _quiet_until.get(key, 0):
            return
        _quiet_until[key] = now + 60 * SECOND
        _LOG.warning(
            "calls of key %s wait for the call counter (%s), the last %.0f s; %d more wait: "
            "ask for less, or if the account has a higher tier: persistent-nonce set-tier %s TIER",
            key,
            state.tier or "own rate",
            waited / SECOND,
            len(state.queue),
            key,
        )

    def _check_time(self, state: KeyState, now: Now, deadline: int) -> None:
        if now.mono >= deadline:
            raise timed_out(state, now, self.passage, self.session.name)
        left = recovery.rest(state, now, self.passage.priority)
        if now.mono + left > deadline:
            raise locked_out(state, left, self.passage)

    def _allowed(self, state: KeyState) -> int:
        """Return the nanoseconds this call may queue."""
        allowed = nanoseconds(self.passage.timeout)
        if not self.passage.excused:
            return allowed
        now = self.store.now()
        left = recovery.rest(state, now, self.passage.priority)
        return allowed + max(0, min(left, self.passage.excused - now.wall))

    def _look(self) -> tuple[KeyState, frozenset[str]]:
        """Read the state, and now and then ask whether the sessions ahead still live."""
        state = self.store.read(self.key)
        now = self.store.clock.mono()
        if now < self._next_probe:
            return state, frozenset()
        ahead = rules.ahead(state, self.id)
        session = self.session
        names = {call.session for call in ahead}
        if state.running is not None:
            names.add(state.running.session)
        probe = nanoseconds(_PROBE * (1 + len(ahead)) * self.store.clock.scale)
        self._next_probe = now + probe
        return state, session.dead(names - {session.name})

    def _patience(self, state: KeyState, wait: int, unchanged: int) -> float:
        """Return the real seconds until the next look.

        Args:
            wait: ns until a transaction can help.
            unchanged: ns since the state was another. The next call will last about as long as this one has, so who is
                not next may look away for a part of that.
        """
        scale = SECOND * self.store.clock.scale
        ahead = len(rules.ahead(state, self.id))
        look = random.uniform(*_LOOK)  # noqa: S311 - jitter, not a secret
        if ahead:
            look = max(look * _LOOK_BEHIND * ahead, unchanged / scale / 4)
            look = min(look, _LOOK_SELDOM)
        elif state.running is None:
            look = _LONGEST  # nobody is before it: it knows its time
        else:
            look = max(look, min(unchanged / scale / _LOOK_PART, _LOOK_LONGEST))
        if self._room and state.running and state.running.id == self._room.inside:
            look = _LOOK_SELDOM  # its end will be told
        return min(look, wait / scale)


def check_turn(running: Running, now: Now, name: str) -> None:
    """Raise if a call learns of its turn only when others may have overtaken it: its body must not begin (I5)."""
    if now.mono > running.until:
        raise GateTimeoutError(
            f"{name} was not sent: it learned of its turn only after its hold_timeout",
            "keep the event loop and the store free, or give a longer hold_timeout",
        )
