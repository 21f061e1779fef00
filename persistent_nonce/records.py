"""What is remembered of a call that began or ended."""

from __future__ import annotations

from typing import Final

from persistent_nonce.state import CallRecord, Changed, KeyState, Outcome, Running

__all__ = ["begun", "ended"]

#: Outcomes that somebody has to look into: their records are kept until they are settled.
_IN_DOUBT: Final = frozenset({"unknown", "interrupted"})


def begun(state: KeyState, call: Running) -> CallRecord:
    """Return the record of a call in flight."""
    return _record(state, call, "in_flight", None, 0)


def ended(
    state: KeyState, call: Running, outcome: Outcome, took: int | None
) -> Changed:
    """Return the record of a call that ended, numbered unless it is in doubt.

    Args:
        took: nanoseconds in flight; None if nobody saw the end.
    """
    serial = 0
    if outcome not in _IN_DOUBT:
        serial = state.settled + 1
        state = state._replace(settled=serial)
    return Changed(state, (_record(state, call, outcome, took, serial),))


def _record(
    state: KeyState, call: Running, outcome: Outcome, took: int | None, serial: int
) -> CallRecord:
    return CallRecord(
        id=call.id,
        key=state.key,
        session=call.session,
        method=call.method,
        cost=call.cost,
        nonce=call.nonce,
        at=call.at,
        waited=call.waited,
        took=took,
        outcome=outcome,
        serial=serial,
    )
