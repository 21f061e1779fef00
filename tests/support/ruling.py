"""The pure rules as tests follow them: calls that join, start and end, and nonces that are refused."""

from __future__ import annotations

from persistent_nonce import recovery, rules
from persistent_nonce.clock import Now
from persistent_nonce.nonces import issue
from persistent_nonce.state import Changed, KeyState, Outcome, Recovery, Running
from tests.support.states import HOLD, at, fresh, running, waiting

__all__ = ["admit", "finish", "queued", "refused", "started"]


def queued(*ids: str, state: KeyState | None = None, seconds: float = 0.0) -> KeyState:
    """Return a state in whose queue the calls `ids` stand, each of the session of its first letter."""
    state = state or fresh()
    for id in ids:
        state = rules.join(state, at(seconds), waiting(id, session=id[0]))
    return state


def admit(state: KeyState, now: Now, id: str) -> KeyState:
    """Return the state after `id` has tried to start."""
    return rules.admit(state, now, id, hold=HOLD).state


def started(state: KeyState) -> Running:
    """Return the call that runs."""
    assert state.running is not None
    return state.running


def finish(
    state: KeyState, now: Now, outcome: Outcome = "ok", call: Running | None = None
) -> Changed:
    """End `call`, or the one that runs."""
    return rules.finish(state, now, call or started(state), outcome, Recovery())


def refused(
    state: KeyState, now: Now, settings: Recovery | None = None
) -> tuple[KeyState, int]:
    """Issue a nonce at `now` and have it refused at once; return the state and that nonce."""
    state = issue(state, now)
    call = running(nonce=state.nonce)
    return recovery.refuse(state, now, call, settings or Recovery()), state.nonce
