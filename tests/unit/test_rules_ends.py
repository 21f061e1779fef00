"""What follows when a call ends, is overtaken or has died, by examples; every order is tried in tests/property."""

from __future__ import annotations

import pytest

from persistent_nonce import rules
from persistent_nonce.clock import SECOND
from persistent_nonce.state import Changed, Outcome, Rate, Turn
from tests.support.ruling import admit, finish, queued, started
from tests.support.states import at, fresh, running

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
