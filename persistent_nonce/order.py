"""Which of the waiting calls comes first: a pure function of the queue.

The higher priority goes first, then who came first (I7); who let its turn pass goes last. So that a lower priority
is not starved, the oldest waiting call goes before all others once it has been overtaken often enough.
"""

from __future__ import annotations

from typing import Final

from persistent_nonce.state import KeyState, Waiting

__all__ = [
    "PATIENCE",
    "ahead",
    "forgive",
    "head",
    "mine",
    "oldest",
    "overtake",
]

#: How many later calls may go before the oldest waiting one while it could have started.
PATIENCE: Final = 10

#: The queue that was looked through last, and its head: a transaction asks four times, and thousands may wait.
_found: Final[list[tuple[tuple[Waiting, ...], Waiting | None]]] = [((), None)]


def _order(call: Waiting) -> tuple[bool, bool, int, int]:
    return (call.late, call.overtaken < PATIENCE, -call.priority, call.ticket)


def head(state: KeyState) -> Waiting | None:
    """Return the call that is next: of the highest priority, then the first to come, those late last (I7)."""
    queue, first = _found[0]
    if queue is not state.queue:
        first = min(state.queue, key=_order, default=None)
        _found[0] = (state.queue, first)
    return first


def mine(state: KeyState, id: str) -> Waiting | None:
    """Return the waiting call of this id, if it stands in the queue."""
    return next((call for call in state.queue if call.id == id), None)


def ahead(state: KeyState, id: str) -> tuple[Waiting, ...]:
    """Return the calls that come before the waiting call `id`."""
    call = mine(state, id)
    if call is None:
        return ()
    place = _order(call)
    return tuple(other for other in state.queue if _order(other) < place)


def oldest(state: KeyState) -> Waiting | None:
    """Return the waiting call that came first, of those that have not let their turn pass."""
    present = (call for call in state.queue if not call.late)
    return min(present, key=lambda call: call.ticket, default=None)


def overtake(state: KeyState, id: str) -> KeyState:
    """Count that a later call goes before the waiting call `id`."""
    queue = (
        call._replace(overtaken=call.overtaken + 1) if call.id == id else call
        for call in state.queue
    )
    return state._replace(queue=tuple(queue))


def forgive(state: KeyState) -> KeyState:
    """Forget how often the waiting calls were overtaken."""
    if not any(call.overtaken for call in state.queue):
        return state
    return state._replace(queue=tuple(c._replace(overtaken=0) for c in state.queue))
