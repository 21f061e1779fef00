"""Who may call and what follows, by examples; every order of events is tried in tests/property."""

from __future__ import annotations

import pytest

from persistent_nonce import recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.state import (
    Changed,
    KeyState,
    Outcome,
    Rate,
    Recovery,
    Running,
    Turn,
)
from tests.support.states import HOLD, WALL, at, fresh, running, waiting

INTERVAL = SECOND // 5


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


# --- wake


def test_a_fresh_key_only_takes_note_of_the_boot() -> None:
    """The first boot of a key changes nothing else."""
    state = fresh()._replace(boot="")
    assert rules.wake(state, at()) == Changed(fresh())


def test_another_boot_starts_above_the_ceiling() -> None:
    """After a reboot the mark is at the ceiling, and nothing counts as synced (I4)."""
    state = fresh()._replace(nonce=100, ceiling=5_100, synced=5_100)
    state, _ = rules.wake(state, at(boot="boot-2"))
    assert (state.nonce, state.ceiling, state.synced) == (5_100, 5_100, 0)
    assert state.boot == "boot-2"


def test_a_mark_above_the_ceiling_stays() -> None:
    """Waking never lowers the mark (I10)."""
    state = fresh()._replace(nonce=100, ceiling=50)
    assert rules.wake(state, at(boot="b")).state.nonce == 100


def test_another_boot_ends_what_the_last_one_ran() -> None:
    """The call in flight is recorded as interrupted, the queue is gone, the counter is taken as full (I6)."""
    state = queued("a", "b", state=fresh(rate=Rate(3.0, 14)))
    state = admit(state, at(), "a")
    now = Now(WALL, 5, "boot-2")
    state, records = rules.wake(state, now)
    assert [(r.id, r.outcome, r.serial) for r in records] == [("a", "interrupted", 0)]
    assert (state.running, state.queue, state.turn) == (None, (), None)
    assert rules.ready_at(state, now, waiting()) == now.mono + 3 * SECOND
    free = waiting(cost=0)
    assert rules.ready_at(state, now, free) == now.mono + INTERVAL


# --- time


def test_clamp_leaves_what_is_right() -> None:
    """A state whose times are possible is the same object after clamping, so that looking costs nothing."""
    state = recovery.lockout(fresh(rate=Rate(1.0, 3)), at(), SECOND, "x")
    assert rules.clamp(state, at()) is state
    assert rules.clamp(fresh(), Now(-5, 7, "b")) == fresh()


def test_clamp_cuts_a_back_off_to_its_length() -> None:
    """After a clock set back a back-off is as long as it was set for, in the state itself (I8)."""
    state = recovery.lockout(fresh(), at(), 5 * SECOND, "x")
    state = rules.clamp(state._replace(turn=Turn("a", 0)), at(1, step=-3_600))
    assert state.turn is None
    assert recovery.rest(state, at(1, step=-3_600), 0) == 5 * SECOND
    assert recovery.rest(state, at(6, step=-3_600), 0) == 0


def test_clamp_cuts_the_monotonic_times() -> None:
    """A start in the future and a counter more than full are cut to now and to full (I8)."""
    state = fresh(rate=Rate(1.0, 3))._replace(
        started=at(50).mono, tat=at(90).mono, turn=Turn("a", 0)
    )
    state = rules.clamp(state, at())
    assert (state.started, state.tat) == (at().mono, at(3).mono)
    assert state.turn is None


def test_ready_at() -> None:
    """A call may start after the interval, when the counter has room, and after the back-off (I6)."""
    now = at()
    state = fresh(rate=Rate(2.0, 3))
    assert rules.ready_at(state, now, waiting()) <= now.mono
    state = state._replace(started=now.mono)
    assert rules.ready_at(state, now, waiting()) == now.mono + INTERVAL
    state = state._replace(tat=now.mono + 6 * SECOND)  # full
    assert rules.ready_at(state, now, waiting(cost=1)) == now.mono + 2 * SECOND
    assert rules.ready_at(state, now, waiting(cost=2)) == now.mono + 4 * SECOND
    assert rules.ready_at(state, now, waiting(cost=0)) == now.mono + INTERVAL
    state = recovery.lockout(state, now, 9 * SECOND, "x")
    assert rules.ready_at(state, now, waiting(cost=0)) == now.mono + 9 * SECOND


# --- the queue


def test_first_come_first_served() -> None:
    """Within a priority the lowest ticket is first; a higher priority goes before it, what is late behind all (I7)."""
    state = queued("a", "b")
    state = rules.join(state, at(), waiting("u", priority=20))
    order = [call.id for call in rules.ahead(state, "b")]
    assert sorted(order) == ["a", "u"]
    first = rules.head(state)
    assert first is not None
    assert first.id == "u"
    late = state._replace(
        queue=tuple(c._replace(late=c.id == "u") for c in state.queue)
    )
    first = rules.head(late)
    assert first is not None
    assert first.id == "a"
    assert rules.ahead(state, "nobody") == ()
    assert rules.head(fresh()) is None
    assert rules.mine(fresh(), "a") is None


def test_joining_twice_keeps_the_ticket() -> None:
    """A call that stands in the queue, or runs, is not put there again."""
    state = queued("a", "b")
    assert rules.join(state, at(), waiting("a")) is state
    state = admit(state, at(), "a")
    assert rules.join(state, at(), waiting("a")) is state


def test_joining_a_closed_key() -> None:
    """Nobody stands in the queue of a closed key."""
    with pytest.raises(KeyClosedError):
        queued("a", state=fresh()._replace(closed=True))


def test_a_waiter_of_a_key_that_was_closed_meanwhile() -> None:
    """Every waiter, not only the head, learns at its next look that the key was closed (design §8)."""
    state = queued("a", "b")._replace(closed=True)
    for id in ("a", "b"):
        assert rules.outlook(state, at(), id) == 0
        with pytest.raises(KeyClosedError):
            admit(state, at(), id)


def test_admission() -> None:
    """Starting charges, issues and marks as running in one step (I5, I6)."""
    state = queued("a", "b", state=fresh(rate=Rate(3.0, 14)))
    now = at(0.5)
    state, records = rules.admit(state, now, "a", hold=HOLD)
    assert started(state) == Running(
        id="a",
        session="a",
        method="Balance",
        cost=1,
        nonce=now.wall // 10**6,
        at=now.wall,
        since=now.mono,
        until=now.mono + HOLD,
        waited=SECOND // 2,
    )
    assert (state.started, state.tat) == (now.mono, now.mono + 3 * SECOND)
    assert [call.id for call in state.queue] == ["b"]
    assert (state.turn, records) == (None, ())


def test_a_durable_call_is_on_record_before_it_starts() -> None:
    """The record of what changes something is written with its admission (design §8)."""
    _, records = rules.admit(queued("a"), at(), "a", hold=HOLD, durable=True)
    assert [(r.id, r.outcome, r.took, r.serial) for r in records] == [
        ("a", "in_flight", None, 0)
    ]


def test_nobody_starts_beside_another() -> None:
    """While a call runs, the next one waits, also when everything else is right (I5)."""
    state = admit(queued("a", "b"), at(), "a")
    assert started(admit(state, at(50), "b")).id == "a"


def test_nobody_starts_before_its_turn() -> None:
    """The second in line does not start, nor one that is not in line."""
    state = queued("a", "b")
    for id in ("b", "c"):
        assert admit(state, at(), id).running is None


def test_nobody_starts_before_the_interval() -> None:
    """The next call starts the interval after the last start, not a nanosecond sooner (I6)."""
    state = finish(admit(queued("a", "b"), at(), "a"), at(0.05)).state
    assert admit(state, at(0.199_999_999), "b").running is None
    assert started(admit(state, at(0.2), "b")).id == "b"


def test_leaving_the_queue() -> None:
    """Whoever leaves is gone, the next one's turn begins, and leaving twice does no harm."""
    state = queued("a", "b")
    state, records = rules.leave(state, at(3), "a")
    assert [call.id for call in state.queue] == ["b"]
    assert state.turn == Turn("b", at(3).mono)
    assert records == ()
    assert rules.leave(state, at(4), "a") == Changed(state)


def test_leaving_after_admission() -> None:
    """A call that left before it was sent is recorded so; its nonce is burnt, its cost not charged again."""
    state = admit(queued("a", "b", state=fresh(rate=Rate(3.0, 14))), at(), "a")
    left, records = rules.leave(state, at(60), "a")
    assert [(r.outcome, r.serial) for r in records] == [("not_sent", 1)]
    assert (left.running, left.nonce, left.tat) == (None, state.nonce, state.tat)


# --- passing over


def test_a_head_that_lets_its_turn_pass() -> None:
    """After one second, not sooner, the next in line starts; the whole session of the head is late (I7)."""
    state = queued("a1", "b", "a2")
    assert admit(state, at(0.999_999_999), "b").running is None
    state = admit(state, at(1), "b")
    assert started(state).id == "b"
    assert {call.id: call.late for call in state.queue} == {"a1": True, "a2": True}


def test_the_second_of_a_stopped_session_costs_no_second() -> None:
    """A session that was passed over once is not waited for again (I7)."""
    state = admit(queued("a1", "a2", "b", "c"), at(1), "b")
    state = finish(state, at(1.1)).state
    assert started(admit(state, at(1.2), "c")).id == "c"


def test_the_third_in_line_may_notice() -> None:
    """Anybody may pass the head over; then it is the second one's turn, for a second of its own (I7)."""
    state = admit(queued("a", "b", "c"), at(1), "c")
    assert state.running is None
    assert state.turn == Turn("b", at(1).mono)
    assert admit(state, at(1.9), "c").running is None
    assert started(admit(state, at(2), "c")).id == "c"


def test_a_late_waiter_that_moves_is_back_at_its_ticket() -> None:
    """A process that goes on is where it was, before those who came after it (I7)."""
    state = admit(queued("a", "b", "c"), at(1), "b")
    state = finish(state, at(1.1)).state
    assert rules.outlook(state, at(1.1), "a") == 0
    state = admit(state, at(1.15), "a")
    assert state.turn == Turn("a", at(1.2).mono)
    assert admit(state, at(1.25), "c").running is None
    assert started(admit(state, at(1.25), "a")).id == "a"


def test_an_absent_head_is_not_shielded_by_urgent_calls() -> None:
    """A head's second goes on where it stood when urgent calls came before it (I7)."""
    state, time = queued("absent", "live", state=fresh(interval=0)), 0.0
    for turn in range(3):
        time += 0.4
        urgent = f"urgent {turn}"
        state = rules.join(state, at(time), waiting(urgent, session="u", priority=20))
        state = finish(admit(state, at(time), urgent), at(time)).state
    assert started(admit(state, at(time), "live")).id == "live"


def test_a_head_that_moves_has_its_second_anew() -> None:
    """What a live head let pass before an urgent call came first is not held against it later (I7)."""
    state = queued("head", "next", state=fresh(interval=0))
    state = rules.join(state, at(0.9), waiting("u", session="u", priority=20))
    assert [call.passed for call in state.queue] == [9 * SECOND // 10, 0, 0]
    state = admit(state, at(0.9), "head")
    assert not any(call.passed for call in state.queue)


def test_nobody_is_passed_over_while_it_could_not_start() -> None:
    """The second begins when the head could start: after the running call, the interval, the counter, the back-off."""
    state = admit(queued("a", "b", "c", state=fresh(rate=Rate(5.0, 1))), at(), "a")
    state = finish(state, at(30)).state
    assert state.turn == Turn("b", at(35).mono)
    assert not any(call.late for call in admit(state, at(35.9), "c").queue)
    locked = recovery.lockout(state, at(35), 60 * SECOND, "x")
    locked = admit(locked, at(35), "c")
    assert not any(call.late for call in admit(locked, at(95.9), "c").queue)
    assert any(call.late for call in admit(locked, at(96), "c").queue)


@pytest.mark.parametrize("step", [2.0, -2.0, -3_600.0])
def test_a_clock_step_moves_the_turn_with_the_back_off(step: float) -> None:
    """The head's second begins when its back-off ends by the clock as it is now (I7, I8)."""
    state = recovery.lockout(queued("a", "b"), at(), 5 * SECOND, "x")
    state = admit(state, at(1), "b")
    now = at(2, step=step)
    state = rules.clamp(state, now)
    end = at(2).mono + recovery.rest(state, now, 0)
    state = admit(state, now, "b")
    assert state.turn == Turn("a", end)


def test_the_outlook_follows_a_turn_brought_forward() -> None:
    """A waiter behind a head whose back-off a clock step has ended acts at once, then gives it its second (I7)."""
    state = recovery.lockout(queued("a", "b"), at(), 900 * SECOND, "x")
    state = admit(state, at(1), "b")
    now = at(2, step=3_600)
    assert rules.outlook(state, now, "b") == 0
    state = admit(state, now, "b")
    assert rules.outlook(state, now, "b") == SECOND


# --- the outlook


def test_outlook() -> None:
    """A waiter learns when it may start, when the head is to be passed over, when the running call is overtaken."""
    state = queued("a", "b")
    assert rules.outlook(state, at(), "a") == 0
    assert rules.outlook(state, at(0.25), "b") == SECOND * 3 // 4
    assert rules.outlook(state, at(2), "b") == 0
    state = admit(state, at(), "a")
    assert rules.outlook(state, at(1), "b") == HOLD - SECOND + 1
    state = finish(state, at(0.1)).state
    assert rules.outlook(state, at(0.1), "b") == SECOND // 10
    assert rules.outlook(state, at(), "nobody") == 0


def test_outlook_of_a_state_that_has_to_be_clamped() -> None:
    """A look that sees an impossible time asks for a transaction, which corrects it (I8)."""
    state = recovery.lockout(queued("a"), at(), 5 * SECOND, "x")
    assert rules.outlook(state, at(), "a") == 5 * SECOND
    assert rules.outlook(state, at(step=-1), "a") == 0


# --- pruning


def test_the_dead_are_removed() -> None:
    """Waiters of a dead session go, its running call ends as interrupted, and it is the next one's turn (I3, I7)."""
    state = admit(queued("a1", "a2", "b"), at(), "a1")
    state, records = rules.prune(state, at(5), {"a"})
    assert [call.id for call in state.queue] == ["b"]
    assert [(r.id, r.outcome, r.took, r.serial) for r in records] == [
        ("a1", "interrupted", None, 0)
    ]
    assert state.turn == Turn("b", at(5).mono)
    assert rules.prune(state, at(5), {"a"}) == Changed(state)


def test_a_dead_call_is_charged_until_it_is_found() -> None:
    """The request of a process that died may have arrived just before: the counter knows (I6)."""
    state = admit(queued("a", state=fresh(rate=Rate(3.0, 14))), at(), "a")
    state, _ = rules.prune(state, at(100), {"a"})
    assert state.tat == at(103).mono


def test_a_call_past_its_time_is_overtaken() -> None:
    """A call past its `until`, not at it, ends as unknown (I5, I8)."""
    state = admit(queued("a", "b"), at(), "a")
    assert rules.prune(state, at(300), ()) == Changed(state)
    state, records = rules.prune(state, at(300.000_000_001), ())
    assert [(r.id, r.outcome) for r in records] == [("a", "unknown")]
    assert started(admit(state, at(301), "b")).id == "b"


def test_left_overs_of_the_own_session_are_removed() -> None:
    """What an interrupt left behind in the caller's session goes; what is alive, and other sessions, stay."""
    state = queued("a1", "a2", "b")
    left, _ = rules.prune(state, at(), (), "a", {"a2"})
    assert [call.id for call in left.queue] == ["a2", "b"]
    state = admit(state, at(), "a1")
    assert rules.prune(state, at(), (), "a", {"a1", "a2"}) == Changed(state)
    assert rules.prune(state, at(), (), "b", {"b"}) == Changed(state)
    left, records = rules.prune(state, at(), (), "a", {"a2"})
    assert left.running is None
    assert [(r.id, r.outcome) for r in records] == [("a1", "unknown")]


# --- the end of a call


@pytest.mark.parametrize(
    ("outcome", "serial"),
    [("ok", 1), ("error", 1), ("invalid_nonce", 1), ("not_sent", 1), ("unknown", 0)],
)
def test_the_record_of_a_call(outcome: Outcome, serial: int) -> None:
    """The record says how it ended and how long it took; one in doubt has no serial, so it is not trimmed."""
    state = admit(queued("a"), at(), "a")
    state, (record,) = finish(state, at(0.3), outcome)
    assert (record.id, record.outcome, record.serial) == ("a", outcome, serial)
    assert record.took == SECOND * 3 // 10
    assert (state.running, state.settled) == (None, serial)


@pytest.mark.parametrize("outcome", ["ok", "error", "unknown", "invalid_nonce"])
def test_the_counter_is_charged_at_the_end(outcome: Outcome) -> None:
    """The exchange counts when a request arrives, so a slow call is charged at its end (I6)."""
    state = admit(queued("a", state=fresh(rate=Rate(3.0, 14))), at(), "a")
    assert finish(state, at(60), outcome).state.tat == at(63).mono
    assert finish(state, at(0), outcome).state.tat == at(3).mono


def test_not_sent_is_not_charged_at_the_end() -> None:
    """A call that was not sent cannot arrive later than it was let go."""
    state = admit(queued("a", state=fresh(rate=Rate(3.0, 14))), at(), "a")
    assert finish(state, at(60), "not_sent").state.tat == at(3).mono


def test_a_success_ends_a_row_of_refusals() -> None:
    """Only what shows that the nonce was good does; a doubt leaves the count."""
    state = admit(queued("a"), at(), "a")._replace(refusals=2)
    assert finish(state, at(), "ok").state.refusals == 0
    assert finish(state, at(), "error").state.refusals == 0
    assert finish(state, at(), "unknown").state.refusals == 2
    assert finish(state, at(), "not_sent").state.refusals == 2


def test_a_refused_call_jumps_and_backs_off() -> None:
    """The exit of a refused call moves the mark and starts the shared back-off, in the same step (design §8)."""
    state = admit(queued("a", "b"), at(), "a")
    state = finish(state, at(0.1), "invalid_nonce").state
    mark = at(0.1).wall // 10**6 + 60_000
    assert state.nonce == state.jumped_at == mark
    assert state.turn == Turn("b", at(2.1).mono)
    assert admit(state, at(2.09), "b").running is None
    assert started(admit(state, at(2.1), "b")).nonce == mark + 1


@pytest.mark.parametrize("outcome", ["ok", "invalid_nonce", "unknown", "not_sent"])
def test_the_end_of_an_overtaken_call(outcome: Outcome) -> None:
    """It settles its own record only: no jump, no count, no back-off, and the call that runs goes on (I5)."""
    state = admit(queued("a", "b"), at(), "a")._replace(refusals=1)
    overtaken = started(state)
    state = rules.prune(state, at(301), ()).state
    state = admit(state, at(301), "b")
    after, (record,) = finish(state, at(302), outcome, overtaken)
    assert after == state._replace(settled=after.settled)
    assert (record.id, record.outcome) == ("a", outcome)
    assert record.took == 302 * SECOND


def test_ending_twice() -> None:
    """A call ended again leaves the state of the key as it was."""
    state = admit(queued("a", "b"), at(), "a")
    call = started(state)
    once = finish(state, at(1)).state
    twice = finish(once, at(2), call=call).state
    assert twice == once._replace(settled=twice.settled)


def test_a_call_nobody_knows() -> None:
    """Ending a call on a key where none runs changes nothing but the record."""
    state, records = finish(fresh(), at(), "ok", running("z"))
    assert state == fresh()._replace(settled=1)
    assert [record.id for record in records] == ["z"]
