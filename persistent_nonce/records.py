"""What is remembered of a call that began or ended."""

from __future__ import annotations

from persistent_nonce.state import CallRecord, Changed, KeyState, Outcome, Running

__all__ = ["begun", "ended", "in_doubt", "settled"]


def in_doubt(call: CallRecord) -> bool:
    """Tell whether it is open if the exchange executed `call`; such a record is kept until it is settled."""
    return call.outcome in ("unknown", "interrupted")


def begun(
    state: KeyState, call: Running, took: int | None = None, said: str = ""
) -> CallRecord:
    """Return the record of a call in flight."""
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
        outcome="in_flight",
        serial=0,
        since=call.since,
        boot=state.boot,
        reference=call.reference,
        said=said,
    )


def ended(
    state: KeyState,
    call: Running,
    outcome: Outcome,
    took: int | None,
    said: str = "",
) -> Changed:
    """Return the state with the record of a call that ended, numbered unless it is in doubt.

    Args:
        took: nanoseconds in flight; None if nobody saw the end.
        said: the exchange's error.
    """
    return settled(state, begun(state, call, took, said), outcome)


def settled(state: KeyState, record: CallRecord, outcome: Outcome) -> Changed:
    """Return the state with `record` and its outcome, numbered unless that is in doubt."""
    record = record._replace(outcome=outcome)
    if in_doubt(record):
        return Changed(state, (record,))
    serial = state.settled + 1
    state = state._replace(settled=serial)
    return Changed(state, (record._replace(serial=serial),))
