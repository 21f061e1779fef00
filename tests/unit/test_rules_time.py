"""What a boot, a step of a clock and the time do to a key, by examples; every order is tried in tests/property."""

from __future__ import annotations

from persistent_nonce import recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.state import Changed, Rate, Turn
from tests.support.ruling import admit, queued
from tests.support.states import WALL, at, fresh, waiting

INTERVAL = SECOND // 5


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
