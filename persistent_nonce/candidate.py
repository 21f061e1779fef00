"""The transaction in which calls stand in the queue, and start if it is their turn.

How each guarantee is kept here, numbered as in the README:

    I7  calls that come together are put into the queue in the order in which they came
"""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from persistent_nonce import rules, settings
from persistent_nonce.clock import Now, nanoseconds
from persistent_nonce.errors import ConfigurationError, ForkedCallError, NonceError
from persistent_nonce.state import (
    CallRecord,
    Changed,
    KeyState,
    Recovery,
    Waiting,
    Wanted,
)
from persistent_nonce.steps import Bell
from persistent_nonce.stores.base import Session, Store

__all__ = ["Candidate", "Passage", "attempt", "attempt_together"]

_LOG: Final = logging.getLogger("persistent_nonce")


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


class Candidate:
    """A call that wants its turn, under the id it will be known by.

    Args:
        bell: of one that waits on an event loop.

    Attributes:
        since: mono, when it came; 0 before its first transaction.
        dead: the sessions that it has found dead.
        answer: the state that its last transaction led to, or the error; None until then.
        due: it has to make another transaction.
        left: it waits no more; a transaction that took it up before must not let it stand in the queue.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        passage: Passage,
        session: Session,
        id: str,
        *,
        bell: Bell | None = None,
    ) -> None:
        self.store = store
        self.key = key
        self.passage = passage
        self.session = session
        self.id = id
        self.bell = bell
        self.since = 0
        self.dead: frozenset[str] = frozenset()
        self.answer: KeyState | BaseException | None = None
        self.due = False
        self.left = False
        self._pid = os.getpid()

    def prepare(self, state: KeyState, now: Now) -> Changed:
        """Return the state with what this call asks of its key; raise if it can never start."""
        passage = self.passage
        if self._pid != os.getpid():  # a signal handler forked: it is the parent's
            raise ForkedCallError(
                f"{passage.method} of key {self.key} belongs to process {self._pid}",
                "start a call of its own in the child",
            )
        state = rules.clamp(settings.configure(state, passage.wanted), now)
        if state.every is not None and passage.cost > state.burst:
            raise ConfigurationError(
                f"{passage.method} costs {passage.cost}, more than the {state.burst} "
                f"that key {state.key} may ever spend at once",
                f"a lower cost, or another rate with: persistent-nonce set-tier {state.key} TIER",
            )
        return Changed(state)

    def join(self, state: KeyState, now: Now) -> Changed:
        """Stand in the queue."""
        passage = self.passage
        waiting = Waiting(
            id=self.id,
            session=self.session.name,
            method=passage.method,
            cost=passage.cost,
            priority=passage.priority,
            since=self.since or now.mono,
            reference=passage.reference,
        )
        return Changed(rules.join(state, now, waiting))

    def admit(self, state: KeyState, now: Now) -> Changed:
        """Start if it is its turn."""
        passage = self.passage
        hold = nanoseconds(passage.hold)
        return rules.admit(state, now, self.id, hold=hold, durable=passage.durable)


class _Trial:
    """The change in which calls of one session stand in the queue, in this order, and start if it is their turn.

    Attributes:
        lost: the calls that were found to have ended without a word.
        refused: the errors of those that cannot start, by id; the error of one that is alone is raised.
    """

    def __init__(self, calls: Sequence[Candidate]) -> None:
        self._calls = calls
        self._session = calls[0].session
        self._records: tuple[CallRecord, ...] = ()
        self.dead = frozenset(name for call in calls for name in call.dead)
        self.lost: tuple[CallRecord, ...] = ()
        self.refused: dict[str, NonceError] = {}

    def __call__(self, state: KeyState, now: Now) -> Changed:
        self.refused, self._records = {}, ()
        session = self._session
        # Under the lock: an older look would take another thread's call, begun since, for a left-over.
        live = frozenset(session.live)
        state = self._each(self._calls, Candidate.prepare, state, now)
        state, self.lost = rules.prune(state, now, self.dead, session.name, live)
        # Another one was dropped, or cancelled and taken out, while this thread was on its way.
        here = [call for call in self._calls if call.id in live and not call.left]
        state = self._each(here, Candidate.join, state, now)
        state = self._each(_may_move(here, state), Candidate.admit, state, now)
        return Changed(state, (*self.lost, *self._records))

    def _each(
        self,
        calls: Sequence[Candidate],
        rule: Callable[[Candidate, KeyState, Now], Changed],
        state: KeyState,
        now: Now,
    ) -> KeyState:
        for call in calls:
            if call.id in self.refused:
                continue
            try:
                state, more = rule(call, state, now)
                self._records += more
            except NonceError as error:
                if len(self._calls) == 1:
                    raise
                self.refused[call.id] = error
        return state


def _may_move(calls: Sequence[Candidate], state: KeyState) -> Sequence[Candidate]:
    """Return those of many calls that an admission may concern; it takes long in a long queue."""
    if len(calls) < 2:  # noqa: PLR2004 - many are two
        return calls
    moved = {call.id for call in state.queue if call.late or call.passed}
    first = rules.head(state)
    if first is not None:
        moved.add(first.id)
    return [call for call in calls if call is calls[0] or call.id in moved]


def attempt(calls: Sequence[Candidate]) -> KeyState:
    """Let calls of one session and key stand in the queue and start if it is their turn, in one transaction."""
    first, trial = calls[0], _Trial(calls)
    durable = any(call.passage.durable for call in calls)
    state = first.store.update(first.key, trial, durable=durable)
    since = {call.id: call.since for call in state.queue}
    for call in calls:
        call.since = since.get(call.id, call.since)
        call.answer = trial.refused.get(call.id, state)
    for name in trial.dead:
        _LOG.warning("session %s is dead; it used key %s", name, first.key)
    for lost in trial.lost:
        _LOG.warning(
            "%s of key %s, nonce %d, may have been executed: %s",
            lost.method,
            first.key,
            lost.nonce,
            "its process died"
            if lost.session in trial.dead
            else "it did not end in time",
        )
    return state


def attempt_together(calls: Sequence[Candidate]) -> None:
    """Have each of `calls` find its answer, or the error of all."""
    try:
        attempt(calls)
    except BaseException as error:  # noqa: BLE001 - raised to each of them
        for call in calls:
            call.answer = error
