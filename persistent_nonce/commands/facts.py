"""What the commands tell of a key and of its calls: plain data, ready for JSON.

Nonces are strings in it, since they exceed 2**53 and a JSON number that passes through a float would be another one.
Times are seconds, moments are ISO 8601 in UTC.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from persistent_nonce import rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.records import begun, in_doubt
from persistent_nonce.recovery import rest
from persistent_nonce.state import DEFAULT_UNIT, CallRecord, KeyState, Running
from persistent_nonce.stores.sessions import pid_of

__all__ = [
    "call_facts",
    "clean",
    "is_earlier",
    "key_facts",
    "moment",
    "recent",
]


def clean(text: str) -> str:
    """Return `text` with every control, format and separator sign as an escape: a terminal obeys some of them."""
    return "".join(
        sign
        if sign == " " or unicodedata.category(sign)[0] not in "CZ"
        else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )


def moment(wall: int) -> str:
    """Return a reading of the wall clock (ns) as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(wall / SECOND, UTC).isoformat(timespec="milliseconds")


def is_earlier(state: KeyState, now: Now) -> bool:
    """Tell whether `state` was written in another boot, whose monotonic times mean nothing now."""
    return bool(state.boot and now.boot and state.boot != now.boot)


def key_facts(
    state: KeyState, now: Now, standing: Callable[[str], str]
) -> dict[str, Any]:
    """Return what is known of a key.

    Args:
        state: as it was read.
        now: when it was read.
        standing: what can be said of a session's process in one word.
    """
    earlier = is_earlier(state, now)
    state = state if earlier else rules.clamp(state, now)
    waiting = [] if earlier else state.queue
    running = state.running
    return {
        "key": state.key,
        "label": state.label,
        "unit": state.unit or DEFAULT_UNIT,
        "nonce": str(state.nonce) if state.nonce else None,
        "lead": state.lead(now.wall) if state.nonce else None,
        "bound": str(state.bound) if state.nonce else None,
        "in_flight": running and _running(state, running, now, standing),
        "queue": [
            {
                "method": call.method,
                "pid": pid_of(call.session),
                "process": standing(call.session),
                "age": _since(call.since, now),
                "priority": call.priority,
                "passed_over": call.late,
            }
            for call in sorted(waiting, key=lambda c: len(rules.ahead(state, c.id)))
        ],
        "interval": state.interval / SECOND,
        "counter": _counter(state, now, full=earlier),
        "back_off": _back_off(state, now),
        "refusals": state.refusals,
        "attempts": state.most_attempts,
        "closed": state.closed,
        "diagnosis": state.diagnosis,
    }


def _since(mono: int, now: Now) -> float:
    return max(0, now.mono - mono) / SECOND


def _running(
    state: KeyState, call: Running, now: Now, standing: Callable[[str], str]
) -> dict[str, Any]:
    earlier = is_earlier(state, now)
    return {
        "id": call.id,
        "method": call.method,
        "nonce": str(call.nonce),
        "pid": pid_of(call.session),
        "process": "gone" if earlier else standing(call.session),
        "at": moment(call.at),
        "age": None if earlier else _since(call.since, now),
        "overdue": earlier or now.mono > call.until,
    }


def _counter(state: KeyState, now: Now, *, full: bool) -> dict[str, Any] | None:
    """Return the level of the call counter; after a reboot it counts as full."""
    if state.every is None:
        return None
    left = max(0, state.tat - now.mono)
    level = left / state.every if state.every else 0.0
    return {
        "level": float(state.burst) if full else level,
        "burst": state.burst,
        "every": state.every / SECOND,
        "tier": state.tier,
    }


def _back_off(state: KeyState, now: Now) -> dict[str, Any] | None:
    left = rest(state, now, 0)
    return {"left": left / SECOND, "reason": state.reason} if left else None


def call_facts(call: CallRecord, labels: dict[str, str]) -> dict[str, Any]:
    """Return what is known of a call; `labels` are those of the keys."""
    return {
        "id": call.id,
        "key": call.key,
        "label": labels.get(call.key, ""),
        "method": call.method,
        "cost": call.cost,
        "nonce": str(call.nonce),
        "pid": pid_of(call.session),
        "at": moment(call.at),
        "waited": call.waited / SECOND,
        "took": None if call.took is None else call.took / SECOND,
        "outcome": call.outcome,
        "said": call.said,
        "reference": call.reference,
        "in_doubt": in_doubt(call),
    }


def recent(
    records: Iterable[CallRecord],
    states: Iterable[KeyState],
    now: Now,
    standing: Callable[[str], str],
) -> list[CallRecord]:
    """Return call records with the calls in flight among them, which have none yet, or one that says no more.

    One whose process is gone, or that is past its time, stands there as the next call of its key will record it.
    """
    known = {record.id: record for record in records}
    for state in states:
        if state.running is not None:
            call = _foreseen(state, state.running, now, standing)
            known[call.id] = call
    return sorted(known.values(), key=lambda c: (c.at, c.nonce), reverse=True)


def _foreseen(
    state: KeyState, call: Running, now: Now, standing: Callable[[str], str]
) -> CallRecord:
    if is_earlier(state, now):
        return rules.wake(state, now).records[0]
    dead = {call.session} if standing(call.session) == "gone" else set()
    ended = rules.prune(state, now, dead).records
    if ended:
        return ended[0]
    return begun(state, call)
