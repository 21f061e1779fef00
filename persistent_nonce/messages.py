"""What a waiting call is told: whom it waits for, and why it did not get its turn."""

from __future__ import annotations

from typing import Final

from persistent_nonce import recovery, rules
from persistent_nonce.candidate import Passage
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import GateTimeoutError, LockedOutError
from persistent_nonce.state import KeyState
from persistent_nonce.stores.sessions import of_one_process, pid_of, process_state

__all__ = ["COUNTER", "locked_out", "timed_out", "waits_for"]

#: The reason of a call that waits until the exchange's counter has room for it.
COUNTER: Final = "the call counter"

_INTERVAL: Final = "the interval"


def _holder(session: str, method: str, since: int, now: Now) -> str:
    """Name a call that others wait for: its method, process, and age."""
    pid = pid_of(session)
    age = (now.mono - since) / SECOND
    return f"{method} of process {pid} ({process_state(pid)}) for {age:.1f} s"


def waits_for(state: KeyState, now: Now, id: str) -> str:
    """Say in a few words what the waiting call `id` waits for."""
    running, first = state.running, rules.head(state)
    if running is not None:
        return f"{running.method} of process {pid_of(running.session)}"
    if first is not None and first.id != id:
        return f"the turn of process {pid_of(first.session)}"
    if first is not None and recovery.rest(state, now, first.priority):
        return f"the back-off ({state.reason})"
    if now.mono < state.started + state.interval:
        return _INTERVAL
    return COUNTER


def timed_out(
    state: KeyState, now: Now, asked: Passage, session: str
) -> GateTimeoutError:
    """Return the error of a call of `session` that did not get its turn."""
    running, first = state.running, rules.head(state)
    if running is not None:
        whom = _holder(running.session, running.method, running.since, now)
        why = f"in flight is {whom}"
        hint = "end that process, or give calls a longer timeout"
        if of_one_process(running.session, session):
            hint = "it is this very process: end that call first, or give calls a longer timeout"
    elif first is not None:
        whom = _holder(first.session, first.method, first.since, now)
        reason = waits_for(state, now, first.id)
        why = f"next is {whom}, which waits for {reason}"
        hint = "the key is asked for more than it allows: fewer calls, or a higher tier"
        if reason == _INTERVAL:
            hint = (
                f"its calls start {state.interval / SECOND:g} s apart: fewer calls, or another interval with: "
                f"persistent-nonce set-tier {state.key} --min-interval SECONDS"
            )
    else:
        why, hint = "nothing is in flight", "give calls a longer timeout"
    return GateTimeoutError(
        f"{asked.method} of key {state.key} was not sent: no turn in {asked.timeout:g} s; "
        f"{why}; {len(state.queue)} in the queue",
        hint,
    )


def locked_out(state: KeyState, left: int, asked: Passage) -> LockedOutError:
    """Return the error of a call whose time ends before the shared back-off does."""
    return LockedOutError(
        f"{asked.method} of key {state.key} was not sent: {state.reason}; "
        f"{left / SECOND:.1f} s to wait, more than its timeout allows",
        "wait, or give calls a longer timeout",
    )
