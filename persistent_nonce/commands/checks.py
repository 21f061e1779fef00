"""What is wrong with a key, judged from its state alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.commands.facts import is_earlier
from persistent_nonce.findings import Finding
from persistent_nonce.state import KeyState
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.verification import finer_unit

__all__ = ["check_key"]

#: Seconds by which a clock may have been set back without a word.
_STEP: Final = 5


def check_key(
    state: KeyState, now: Now, standing: Callable[[str], str]
) -> list[Finding]:
    """Return what is wrong with a key; if nothing is, one finding that says so.

    Args:
        state: as it was read.
        now: when it was read.
        standing: what can be said of a session's process in one word.
    """
    about = f"key {state.key} {state.label!r}" if state.label else f"key {state.key}"
    wrong = [
        Finding(about, wrong=True, said=said, do=do)
        for check in (_refusals, _unit, _lead, _clock)
        for said, do in check(state, now)
    ]
    wrong += [
        Finding(about, wrong=True, said=said, do=do)
        for check in (_running, _queue)
        for said, do in check(state, now, standing)
    ]
    if wrong:
        return wrong
    lead = state.lead(now.wall)
    side = "ahead of" if lead > 0 else "behind"
    where = f"{abs(lead):.1f} s {side} the clock" if state.nonce else "no nonce yet"
    return [Finding(about, wrong=False, said=f"counts in {state.unit}, {where}")]


def _refusals(state: KeyState, _: Now) -> Iterator[tuple[str, str]]:
    if state.closed:
        yield (
            f"closed: {state.diagnosis}",
            f"then: persistent-nonce reopen {state.key}, or raise-floor",
        )
        return
    if state.diagnosis:
        yield state.diagnosis, f"then: persistent-nonce reopen {state.key}"
    if state.refusals:
        yield (
            f"{state.refusals} of {state.most_attempts} nonces in a row were refused",
            "stop what uses the key outside this library, or in another store",
        )


def _unit(state: KeyState, now: Now) -> Iterator[tuple[str, str]]:
    unit = finer_unit(state.nonce, state, now)
    if unit is not None:
        yield (
            f"the mark {state.nonce} looks like a time in {unit}, but the key counts in {state.unit}",
            "let all programs of an API key count in one unit, or give each a key of its own",
        )


def _lead(state: KeyState, now: Now) -> Iterator[tuple[str, str]]:
    base = max(state.seen, now.wall // state.tick) + state.offset
    allowed = state.bound - state.seen - state.offset
    ahead = state.nonce - base
    if state.nonce and 2 * ahead > allowed:
        used, most = ahead * state.tick / SECOND, allowed * state.tick / SECOND
        yield (
            f"{used:.0f} s ahead of the clock, of {most:.0f} s that are allowed",
            f"look for a loop that takes nonces without calling, or: persistent-nonce set-unit {state.key} UNIT",
        )


def _clock(state: KeyState, now: Now) -> Iterator[tuple[str, str]]:
    back = (state.seen * state.tick - now.wall) / SECOND
    if back > _STEP:
        yield (
            f"the clock stood {back:.0f} s later when a nonce was taken",
            "set the clock right; nonces go on rising from the last one meanwhile",
        )


def _running(
    state: KeyState, now: Now, standing: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    call = state.running
    if call is None:
        return
    pid, process = pid_of(call.session), standing(call.session)
    who = f"{call.method} with nonce {call.nonce} of process {pid}"
    if is_earlier(state, now) or process == "gone":
        yield (
            f"{who} was in flight when its process ended; it may have been executed",
            "look it up at the exchange; the next call of the key sets this right",
        )
    elif process == "stopped":
        yield (
            f"{who} is in flight, and that process is stopped",
            f"let it go on (kill -CONT {pid}), or end it",
        )
    elif now.mono > call.until:
        yield (
            f"{who} is in flight for longer than it may be",
            f"look at what process {pid} does; the next call of the key overtakes it",
        )


def _queue(
    state: KeyState, now: Now, standing: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    if is_earlier(state, now):
        return
    for session in dict.fromkeys(call.session for call in state.queue):
        pid = pid_of(session)
        if standing(session) == "stopped":
            yield (
                f"process {pid} waits for its turn, and is stopped",
                f"let it go on (kill -CONT {pid}), or end it; the others pass it over",
            )
