"""Who may call, and what follows from how it ended: pure functions of a key's state and the time.

The guarantees kept here, numbered as in the README:

    I4      wake: another boot starts above all that the last one may have issued
    I5      admit: a call starts only when none is running
    I6      admit, _end: counter and interval are charged at admission, the counter again at the end
    I7      join, admit: first come, first served; who lets its turn pass is passed over
    I8      clamp: a clock step never makes a wait longer than what caused it

A rule returns the new state, or `Changed` with the call records to be written beside it.
It raises to have nothing stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.nonces import check_open, issue
from persistent_nonce.order import (
    ahead,
    head,
    mine,
    oldest,
    overtake,
)
from persistent_nonce.records import begun, ended
from persistent_nonce.recovery import back_off, refuse, rest
from persistent_nonce.state import (
    BackOff,
    CallRecord,
    Changed,
    KeyState,
    Outcome,
    Recovery,
    Running,
    Turn,
    Waiting,
)

__all__ = [
    "PASS_OVER",
    "admit",
    "ahead",
    "clamp",
    "finish",
    "head",
    "join",
    "leave",
    "mine",
    "outlook",
    "prune",
    "ready_at",
    "wake",
]

#: Nanoseconds of its turn that the head of the queue may let pass.
PASS_OVER: Final = SECOND


def wake(state: KeyState, now: Now) -> Changed:
    """Enter another boot: start above the ceiling (I4), with nobody waiting and the call counter full."""
    if not state.boot:
        return Changed(state._replace(boot=now.boot))
    rested = state
    records: tuple[CallRecord, ...] = ()
    if state.running is not None:
        rested, records = _end(state, now, state.running, "interrupted", took=None)
    return Changed(
        rested._replace(
            nonce=max(state.nonce, state.ceiling),
            synced=0,
            boot=now.boot,
            started=now.mono,
            tat=now.mono + state.burst * (state.every or 0),
            turn=None,
            queue=(),
        ),
        records,
    )


# --- time -----------------------------------------------------------------------------


def clamp(state: KeyState, now: Now) -> KeyState:
    """Cut back, in the state itself, every wait that a clock set back has made longer (I8)."""
    if now.wall < state.set_at < state.not_before:
        length = state.not_before - state.set_at
        # Whoever is next may start at another time now, so its turn begins anew.
        state = state._replace(set_at=now.wall, not_before=now.wall + length, turn=None)
    # A counter that a reply called full is so at the end of the back-off.
    fullest = now.mono + rest(state, now, 0) + state.burst * (state.every or 0)
    if state.started > now.mono or state.tat > fullest:
        state = state._replace(
            started=min(state.started, now.mono),
            tat=min(state.tat, fullest),
            turn=None,
        )
    return state


def ready_at(state: KeyState, now: Now, call: Waiting) -> int:
    """Return the `mono` time from which `call` may start if nothing else runs (I6)."""
    at = state.started + state.interval if state.started else 0
    if call.cost and state.every is not None:
        at = max(at, state.tat + (call.cost - state.burst) * state.every)
    left = rest(state, now, call.priority)
    return max(at, now.mono + left) if left else at


# --- the queue ------------------------------------------------------------------------


def _settle(state: KeyState, now: Now) -> KeyState:
    """Write down whose turn it is, after anything that changes the head or ends the running call (I7)."""
    first = head(state) if state.running is None else None
    if first is None:
        return state if state.turn is None else state._replace(turn=None)
    turn, ready = state.turn, ready_at(state, now, first)
    if turn is not None and turn.id == first.id and max(turn.since, ready) <= now.mono:
        return state
    if turn is not None and turn.id != first.id and turn.since < now.mono:
        # Kept, or urgent calls in between could shield an absent head for ever.
        passed = min(now.mono - turn.since, PASS_OVER)
        state = _amend(
            state,
            lambda call: (
                call._replace(passed=max(call.passed, passed))
                if call.id == turn.id
                else call
            ),
        )
    # A turn that has not begun is looked at again: a clock step may have moved the end of a back-off.
    since = max(now.mono, ready) - first.passed
    return state._replace(turn=Turn(first.id, since))


def prune(
    state: KeyState,
    now: Now,
    dead: Collection[str],
    session: str = "",
    live: Collection[str] = (),
) -> Changed:
    """Remove what cannot go on: calls of dead sessions, and a running call past its time.

    An interrupt may have left calls of the caller's own `session` too: only those in `live` exist.
    """
    records: tuple[CallRecord, ...] = ()
    queue = tuple(
        call
        for call in state.queue
        if call.session not in dead and (call.session != session or call.id in live)
    )
    if len(queue) != len(state.queue):
        state = state._replace(queue=queue)
    running = state.running
    if running is not None:
        left = running.session == session and running.id not in live
        if running.session in dead:
            state, records = _end(state, now, running, "interrupted", took=None)
        elif left or now.mono > running.until:
            state, records = _end(state, now, running, "unknown", took=None)
    return Changed(_settle(state, now), records)


def outlook(state: KeyState, now: Now, id: str) -> int:
    """Return the nanoseconds until a transaction of the waiting call `id` can change anything.

    What others do meanwhile can make it sooner, so the state must be looked at in between.
    """
    call, first = mine(state, id), head(state)
    if call is None or call.late or state.closed or clamp(state, now) is not state:
        return 0
    if state.running is not None:
        return max(0, state.running.until + 1 - now.mono)
    if first is call:
        return max(0, ready_at(state, now, call) - now.mono)
    if first is None or state.turn is None:
        return 0
    since, ready = state.turn.since, ready_at(state, now, first)
    if ready < since and now.mono < since:  # a clock step has brought its turn forward
        return max(0, ready - now.mono)
    return max(0, max(since, ready) + PASS_OVER - now.mono)


def join(state: KeyState, now: Now, call: Waiting) -> KeyState:
    """Put `call` at the end of the queue; a call that stands there already keeps its ticket.

    Raises:
        KeyClosedError: the key is closed.
    """
    check_open(state)
    running = state.running
    if mine(state, call.id) or (running is not None and running.id == call.id):
        return state
    ticket = state.ticket + 1
    queue = (*state.queue, call._replace(ticket=ticket))
    return _settle(state._replace(ticket=ticket, queue=queue), now)


def admit(
    state: KeyState, now: Now, id: str, *, hold: int, durable: bool = False
) -> Changed:
    """Start the call `id` if it is its turn: charge it, issue its nonce, mark it as running (I5, I6, I7).

    The caller has clamped and pruned the state in the same transaction. Whether the call was started shows in
    the `running` of the result.

    Args:
        hold: nanoseconds after which the call may be overtaken.
        durable: write its record now, since its loss would not be noticed otherwise.

    Raises:
        KeyClosedError, NonceRangeError: as from `issue`.
    """
    check_open(state)
    call = mine(state, id)
    if call is None:
        return Changed(state)
    if call.late or call.passed:
        here = call._replace(late=False, passed=0)
        state = _amend(state, lambda other: here if other.id == id else other)
        if state.turn is not None and state.turn.id == id:
            state = state._replace(turn=None)  # it moves: its second begins anew
    state = _settle(state, now)
    state = _pass_over(state, now, id)
    first = head(state)
    if (
        state.running is not None
        or first is None
        or first.id != id
        or now.mono < ready_at(state, now, first)
    ):
        return Changed(state)
    waits = oldest(state) or first
    if waits.id != id:
        # A higher priority keeps it from its turn, not the pace; or that does, but what it waits for is spent here.
        alike = waits._replace(cost=min(waits.cost, first.cost or waits.cost))
        if ready_at(state, now, alike) <= now.mono:
            state = overtake(state, waits.id)
    state = issue(state, now)
    running = Running(
        id=id,
        session=call.session,
        method=call.method,
        cost=call.cost,
        nonce=state.nonce,
        at=now.wall,
        since=now.mono,
        until=now.mono + hold,
        waited=now.mono - call.since,
        reference=call.reference,
    )
    state = state._replace(
        queue=tuple(other for other in state.queue if other.id != id),
        running=running,
        started=now.mono,
        tat=_charged(state, max(state.tat, now.mono), call.cost),
        turn=None,
    )
    if not durable:
        return Changed(state)
    return Changed(state, (begun(state, running),))


def _amend(state: KeyState, change: Callable[[Waiting], Waiting]) -> KeyState:
    return state._replace(queue=tuple(change(call) for call in state.queue))


def _pass_over(state: KeyState, now: Now, id: str) -> KeyState:
    """Move a head that has let its turn pass, with all that wait in its session, behind the others (I7)."""
    first, turn = head(state), state.turn
    if first is None or turn is None or first.id == id:
        return state
    if now.mono < turn.since + PASS_OVER:
        return state
    absent = first.session
    state = _amend(
        state,
        lambda call: (
            call._replace(late=True, passed=0)
            if call.session == absent and call.id != id
            else call
        ),
    )
    return _settle(state._replace(turn=None), now)


def leave(state: KeyState, now: Now, id: str) -> Changed:
    """Take the call `id` out again, wherever it stands: it was not sent."""
    if state.running is not None and state.running.id == id:
        return _end(state, now, state.running, "not_sent", took=0)
    queue = tuple(call for call in state.queue if call.id != id)
    return Changed(_settle(state._replace(queue=queue), now))


def finish(
    state: KeyState,
    now: Now,
    call: Running,
    outcome: Outcome,
    recovery: Recovery,
    *,
    asked: BackOff | None = None,
    said: str = "",
) -> Changed:
    """End `call` with `outcome`; one that runs no more (overtaken, or finished before) only settles its record.

    Args:
        asked: what the reply asks of the whole key; it is as true if it comes late.
        said: the exchange's error, for the record.
    """
    took = now.mono - call.since
    if asked is not None:
        state = back_off(state, now, asked)
    if state.running is None or state.running.id != call.id:
        return ended(state, call, outcome, took, said)
    if outcome == "invalid_nonce":
        state = refuse(state, now, call, recovery)
    elif state.refusals and (outcome == "ok" or (outcome == "error" and asked is None)):
        # The nonce was good: also of an order that was refused for what it asks.
        state = state._replace(refusals=0, healed=call.id)
    return _end(state, now, call, outcome, took=took, said=said)


def _charged(state: KeyState, tat: int, cost: int) -> int:
    return tat + cost * state.every if state.every is not None else tat


def _end(
    state: KeyState,
    now: Now,
    call: Running,
    outcome: Outcome,
    *,
    took: int | None,
    said: str = "",
) -> Changed:
    # The counter is charged again, since the exchange counts when a request arrives, not when we let it go (I6);
    # also for a call whose process died or that was overtaken: it may have arrived until now.
    if outcome != "not_sent":
        state = state._replace(tat=max(state.tat, _charged(state, now.mono, call.cost)))
    state, records = ended(state._replace(running=None), call, outcome, took, said)
    return Changed(_settle(state, now), records)
