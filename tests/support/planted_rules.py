"""Rules broken on purpose, each in a way that the schedules of tests/property have to show."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest

from persistent_nonce import order, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.state import Changed, KeyState, Turn, Waiting

__all__ = ["FAULTS"]

Plant = Callable[[pytest.MonkeyPatch], None]
FAULTS: dict[str, Plant] = {}


def fault(plant: Plant) -> Plant:
    """Register a fault under the name of its function."""
    FAULTS[plant.__name__] = plant
    return plant


def replace(patch: pytest.MonkeyPatch, name: str, wrap: Callable[..., Any]) -> None:
    """Replace the rule `name` by `wrap(original, *arguments)`."""
    original = getattr(rules, name)
    patch.setattr(rules, name, lambda *a, **k: wrap(original, *a, **k))


@fault
def a_running_call_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """I5: start beside another."""

    def wrap(original: Any, state: KeyState, *a: Any, **k: Any) -> Changed:
        changed: Changed = original(state._replace(running=None), *a, **k)
        if changed.state.running is None:
            return Changed(changed.state._replace(running=state.running))
        return changed

    replace(patch, "admit", wrap)


@fault
def anyone_may_start(patch: pytest.MonkeyPatch) -> None:
    """I7: whoever looks is the head."""

    def wrap(original: Any, state: KeyState, now: Now, id: str, **k: Any) -> Changed:
        queue = tuple(
            c._replace(ticket=-1, priority=99) if c.id == id else c for c in state.queue
        )
        changed: Changed = original(
            state._replace(queue=queue, turn=None), now, id, **k
        )
        return changed if changed.state.running else original(state, now, id, **k)

    replace(patch, "admit", wrap)


@fault
def last_come_first_served(patch: pytest.MonkeyPatch) -> None:
    """I7: the order within a priority is turned round."""
    patch.setattr(order, "_order", lambda c: (c.late, -c.priority, -c.ticket))


@fault
def priorities_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """I7: an urgent call waits like others."""
    patch.setattr(order, "_order", lambda c: (c.late, 0, c.ticket))


@fault
def the_interval_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    """I6: calls follow each other at once."""
    replace(patch, "ready_at", lambda o, s, n, c: o(s._replace(started=0), n, c))


@fault
def the_counter_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """I6: more calls than the tier allows."""
    replace(patch, "ready_at", lambda o, s, n, c: o(s, n, c._replace(cost=0)))


@fault
def the_burst_is_one_too_large(patch: pytest.MonkeyPatch) -> None:
    """I6: one call more than fits."""
    replace(
        patch, "ready_at", lambda o, s, n, c: o(s._replace(burst=s.burst + 1), n, c)
    )


def uncharged(original: Any, state: KeyState, *a: Any, **k: Any) -> Changed:
    """Keep to the rule `original`, but for what it charges to the counter."""
    changed: Changed = original(state, *a, **k)
    return changed._replace(state=changed.state._replace(tat=state.tat))


@fault
def nothing_is_charged_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """I6: a slow call is counted too early."""
    replace(patch, "finish", uncharged)


@fault
def the_dead_are_not_charged(patch: pytest.MonkeyPatch) -> None:
    """I6: the last request of a killed process is counted too early."""
    replace(patch, "prune", uncharged)


@fault
def any_finish_ends_the_running_call(patch: pytest.MonkeyPatch) -> None:
    """I5: an overtaken call ends another's."""

    def wrap(
        original: Any, state: KeyState, now: Now, call: Any, *a: Any, **k: Any
    ) -> Any:
        running = state.running
        return original(state, now, running or call, *a, **k)

    replace(patch, "finish", wrap)


@fault
def the_dead_stay(patch: pytest.MonkeyPatch) -> None:
    """I7: those who died keep their place, and what they ran."""

    def wrap(
        original: Any, state: KeyState, now: Now, dead: Collection[str], *a: Any
    ) -> Any:
        return original(state, now, (), *a)

    replace(patch, "prune", wrap)


@fault
def left_overs_stay(patch: pytest.MonkeyPatch) -> None:
    """I7: what an interrupt left in the queue stays there."""
    replace(patch, "prune", lambda o, s, n, dead, session, live: o(s, n, dead))


@fault
def nobody_is_overtaken(patch: pytest.MonkeyPatch) -> None:
    """I8: a call that hangs holds the key for ever."""

    def wrap(original: Any, state: KeyState, now: Now, *a: Any) -> Any:
        running = state.running
        if running is None:
            return original(state, now, *a)
        until = now.mono + 1
        changed = original(
            state._replace(running=running._replace(until=until)), now, *a
        )
        if changed.state.running is None:
            return changed
        return changed._replace(state=changed.state._replace(running=running))

    replace(patch, "prune", wrap)


@fault
def nobody_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    """I7: a stopped process stops all."""
    replace(patch, "_pass_over", lambda o, state, now, id: state)


@fault
def only_the_head_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    """I7: each waiter of a stopped process costs a second of its own."""

    def wrap(original: Any, state: KeyState, now: Now, id: str) -> KeyState:
        first = rules.head(state)
        after: KeyState = original(state, now, id)
        late = {c.id for c in state.queue if c.late} | {first.id if first else ""}
        queue = tuple(c._replace(late=c.late and c.id in late) for c in after.queue)
        return rules._settle(after._replace(queue=queue, turn=None), now)

    replace(patch, "_pass_over", wrap)


@fault
def a_turn_is_half_a_second(patch: pytest.MonkeyPatch) -> None:
    """I7: who is merely slow is passed over."""
    patch.setattr(rules, "PASS_OVER", SECOND // 2)


@fault
def a_turn_counts_while_another_runs(patch: pytest.MonkeyPatch) -> None:
    """I7: the second begins before the head could start."""

    def wrap(original: Any, state: KeyState, now: Now) -> KeyState:
        first = rules.head(state)
        if first is None or (state.turn is not None and state.turn.id == first.id):
            return state
        return state._replace(turn=Turn(first.id, now.mono))

    replace(patch, "_settle", wrap)


@fault
def a_turn_outlives_its_head(patch: pytest.MonkeyPatch) -> None:
    """I7: the next head inherits the second of the last one."""

    def wrap(original: Any, state: KeyState, now: Now) -> KeyState:
        after: KeyState = original(state, now)
        if state.turn is None or after.turn is None:
            return after
        return after._replace(turn=state.turn._replace(id=after.turn.id))

    replace(patch, "_settle", wrap)


@fault
def late_for_ever(patch: pytest.MonkeyPatch) -> None:
    """I7: who was passed over once stays behind all."""

    def wrap(
        original: Any, state: KeyState, change: Callable[[Waiting], Waiting]
    ) -> Any:
        def kept(call: Waiting) -> Waiting:
            return change(call)._replace(late=call.late or change(call).late)

        return original(state, kept)

    replace(patch, "_amend", wrap)


@fault
def a_clock_step_is_not_written_down(patch: pytest.MonkeyPatch) -> None:
    """I8: a clock set back leaves a back-off that does not end."""
    patch.setattr(rules, "clamp", lambda state, now: state)


@fault
def a_turn_is_looked_at_once(patch: pytest.MonkeyPatch) -> None:
    """I7: a clock step leaves a turn that begins at the wrong time."""

    def wrap(original: Any, state: KeyState, now: Now) -> KeyState:
        first = rules.head(state) if state.running is None else None
        if first is not None and state.turn is not None and state.turn.id == first.id:
            return state
        after: KeyState = original(state, now)
        return after

    replace(patch, "_settle", wrap)
