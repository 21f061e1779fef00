"""The way into a gate: stand in the queue, look at the state, start when it is the turn.

How each guarantee is kept here, numbered as in the README:

    I7  a waiter looks at the state without a lock, more often the nearer it is
    I8  every wait ends at a deadline; the error names who has the turn
"""

from __future__ import annotations

import logging
import os
import random
from functools import partial
from typing import Final, NamedTuple

from persistent_nonce import recovery, rules, settings
from persistent_nonce.clock import SECOND, Now, nanoseconds
from persistent_nonce.errors import ConfigurationError, ForkedCallError
from persistent_nonce.messages import COUNTER, locked_out, timed_out, waits_for
from persistent_nonce.state import (
    CallRecord,
    Changed,
    KeyState,
    Recovery,
    Running,
    Waiting,
    Wanted,
)
from persistent_nonce.steps import do, pause
from persistent_nonce.stores.base import Session, Store

__all__ = ["Entrance", "Passage"]

_LOG: Final = logging.getLogger("persistent_nonce")

#: Seconds between two looks of the next in line, at random; a fiftieth of how long the call ahead has lasted, up to a
#: limit, where that is more; those behind look less often.
_LOOK: Final = (0.001, 0.0022)
_LOOK_PART: Final = 50
_LOOK_LONGEST: Final = 0.005
_LOOK_BEHIND: Final = 5.0  # times as long for each place further back
_LOOK_SELDOM: Final = 0.1

#: Seconds between two probes of whether the sessions ahead still live, for the next in line.
_PROBE: Final = 0.05

#: The longest pause in one piece, in seconds.
_LONGEST: Final = 1.0

#: Nanoseconds of waiting for the call counter that are worth a warning, once a minute and key.
_LONG: Final = 5 * SECOND
_quiet_until: Final[dict[str, int]] = {}


class Passage(NamedTuple):
    """What a call asks of its gate."""

    method: str
    cost: int
    priority: int
    timeout: float  # seconds, for the queueing
    hold: float  # seconds, after which the call may be overtaken
    durable: bool  # its record is on the disk before it starts
    wanted: Wanted
    recovery: Recovery
    attempt: int = 1
    excused: int = 0  # wall; a back-off is not charged to the timeout up to here
    reference: str = ""  # the caller's own id of what the call places


class Entrance:
    """A call's wait for its turn, under the id it will be known by."""

    def __init__(
        self, store: Store, key: str, passage: Passage, session: Session, id: str
    ) -> None:
        self._store = store
        self._key = key
        self._passage = passage
        self._session = session
        self._id = id
        self._since = 0
        self._next_probe = 0
        self._pid = os.getpid()

    async def wait(self) -> Running:
        """Wait for the turn and return the call, which has begun.

        Raises:
            GateTimeoutError, LockedOutError, KeyClosedError: there was no turn; the call may stand in the queue still.
            NonceError: as from a provider.
        """
        started = self._store.now().mono
        state = await do(partial(self._try, frozenset()))
        deadline = started + self._allowed(state)
        reason, seen, since = "", None, 0
        while state.running is None or state.running.id != self._id:
            now = self._store.now()
            self._check_time(state, now, deadline)
            dead: frozenset[str] = frozenset()
            wait = rules.outlook(state, now, self._id)
            if wait > 0:
                if state is not seen or state.running is None:
                    reason = waits_for(state, now, self._id)
                if state is not seen:
                    seen, since = state, now.mono
                wait = min(wait, deadline - now.mono)
                await pause(self._patience(state, wait, now.mono - since))
                state, dead = await do(self._look)
            if wait <= 0 or dead:
                state = await do(partial(self._try, dead))
        if reason:
            self._log_wait(state, state.running.waited, reason)
        return state.running

    def _log_wait(self, state: KeyState, waited: int, reason: str) -> None:
        name, key = self._passage.method, self._key
        _LOG.debug(
            "%s of key %s waited %d ms for %s", name, key, waited // 1_000_000, reason
        )
        now = self._store.now().mono
        if reason != COUNTER or waited < _LONG or now < _quiet_until.get(key, 0):
            return
        _quiet_until[key] = now + 60 * SECOND
        _LOG.warning(
            "calls of key %s wait for the call counter (%s), the last %.0f s; %d more wait: "
            "ask for less, or if the account has a higher tier: persistent-nonce set-tier %s",
            key,
            state.tier or "own rate",
            waited / SECOND,
            len(state.queue),
            key,
        )

    def _check_time(self, state: KeyState, now: Now, deadline: int) -> None:
        if now.mono >= deadline:
            raise timed_out(state, now, self._passage)
        left = recovery.rest(state, now, self._passage.priority)
        if now.mono + left > deadline:
            raise locked_out(state, left, self._passage)

    def _allowed(self, state: KeyState) -> int:
        """Return the nanoseconds this call may queue."""
        allowed = nanoseconds(self._passage.timeout)
        now = self._store.now()
        left = recovery.rest(state, now, self._passage.priority)
        return allowed + max(0, min(left, self._passage.excused - now.wall))

    def _try(self, dead: frozenset[str]) -> KeyState:
        """Stand in the queue and start if it is the turn, in one transaction."""
        passage, session = self._passage, self._session
        lost: list[CallRecord] = []

        def change(state: KeyState, now: Now) -> Changed:
            if self._pid != os.getpid():  # a signal handler forked: it is the parent's
                raise ForkedCallError(
                    f"{passage.method} of key {self._key} belongs to process {self._pid}",
                    "start a call of its own in the child",
                )
            # Under the lock: an older look would take another thread's call, begun since, for a left-over.
            live = frozenset(session.live)
            state = rules.clamp(settings.configure(state, passage.wanted), now)
            if state.every is not None and passage.cost > state.burst:
                raise ConfigurationError(
                    f"{passage.method} costs {passage.cost}, more than the {state.burst} "
                    f"that key {state.key} may ever spend at once",
                    f"a lower cost, or another rate with: set-tier {state.key}",
                )
            state, ended = rules.prune(state, now, dead, session.name, live)
            lost[:] = ended
            if self._id not in live:  # dropped while this thread was on its way
                return Changed(state, ended)
            since = self._since or now.mono
            waiting = Waiting(
                id=self._id,
                session=session.name,
                method=passage.method,
                cost=passage.cost,
                priority=passage.priority,
                since=since,
                reference=passage.reference,
            )
            state = rules.join(state, now, waiting)
            hold = nanoseconds(passage.hold)
            state, started = rules.admit(
                state, now, self._id, hold=hold, durable=passage.durable
            )
            return Changed(state, (*ended, *started))

        state = self._store.update(self._key, change, durable=passage.durable)
        mine = rules.mine(state, self._id)
        if mine is not None:
            self._since = mine.since
        for name in dead:
            _LOG.warning("session %s is dead; it used key %s", name, self._key)
        for call in lost:
            _LOG.warning(
                "%s of key %s, nonce %d, may have been executed: %s",
                call.method,
                self._key,
                call.nonce,
                "its process died"
                if call.session in dead
                else "it did not end in time",
            )
        return state

    def _look(self) -> tuple[KeyState, frozenset[str]]:
        """Read the state, and now and then ask whether the sessions ahead still live."""
        state = self._store.read(self._key)
        now = self._store.clock.mono()
        if now < self._next_probe:
            return state, frozenset()
        ahead = rules.ahead(state, self._id)
        session = self._session
        names = {call.session for call in ahead}
        if state.running is not None:
            names.add(state.running.session)
        probe = nanoseconds(_PROBE * (1 + len(ahead)) * self._store.clock.scale)
        self._next_probe = now + probe
        return state, session.dead(names - {session.name})

    def _patience(self, state: KeyState, wait: int, unchanged: int) -> float:
        """Return the real seconds until the next look.

        Args:
            wait: ns until a transaction can help.
            unchanged: ns since the state was another. The next call will last about as long as this one has, so who is
                not next may look away for a part of that.
        """
        scale = SECOND * self._store.clock.scale
        ahead = len(rules.ahead(state, self._id))
        look = random.uniform(*_LOOK)  # noqa: S311 - jitter, not a secret
        if ahead:
            look = max(look * _LOOK_BEHIND * ahead, unchanged / scale / 4)
            look = min(look, _LOOK_SELDOM)
        elif state.running is None:
            look = _LONGEST  # nobody is before it: it knows its time
        else:
            look = max(look, min(unchanged / scale / _LOOK_PART, _LOOK_LONGEST))
        return min(look, wait / scale)
