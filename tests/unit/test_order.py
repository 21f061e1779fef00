"""Which of the waiting calls comes first, and how often the oldest may be overtaken."""

from __future__ import annotations

import pytest

from persistent_nonce import order, recovery, rules
from persistent_nonce.order import PATIENCE
from persistent_nonce.state import URGENT, KeyState, Rate, Recovery, Waiting
from persistent_nonce.stores import rows
from tests.support.states import HOLD, at, fresh, waiting


def queue_of(*calls: Waiting, interval: float = 0.0) -> KeyState:
    """Return a key for which these calls wait, the first of them the oldest."""
    state = fresh("us", interval=interval)
    for call in calls:
        state = rules.join(state, at(), call)
    return state


def overtake(state: KeyState, number: int, *, cost: int = 0) -> KeyState:
    """Let an urgent call come, go and end at once."""
    call = waiting(f"u{number}", priority=URGENT, cost=cost)
    state = rules.join(state, at(), call)
    state = rules.admit(state, at(), call.id, hold=HOLD).state
    assert state.running is not None, f"urgent call {number} was not let in"
    assert state.running.id == call.id
    return rules.finish(state, at(), state.running, "ok", Recovery()).state


def head_of(state: KeyState) -> str:
    """Return the id of the call that is next."""
    first = order.head(state)
    assert first is not None
    return first.id


def test_nobody_waits() -> None:
    """An empty queue has neither head nor oldest, and nobody is in it."""
    state = fresh()
    assert order.head(state) is None
    assert order.oldest(state) is None
    assert order.mine(state, "a") is None
    assert order.ahead(state, "a") == ()
    assert order.forgive(state) is state


def test_priority_then_arrival() -> None:
    """The higher priority goes first, then who came first; the oldest is who came first of all (I7)."""
    state = queue_of(waiting("a"), waiting("b", priority=20), waiting("c", priority=20))
    assert head_of(state) == "b"
    assert [call.id for call in order.ahead(state, "a")] == ["b", "c"]
    assert [call.id for call in order.ahead(state, "c")] == ["b"]
    oldest, mine = order.oldest(state), order.mine(state, "a")
    assert oldest is mine
    assert mine is not None
    assert (mine.id, mine.ticket) == ("a", 1)


def test_late_calls_go_last() -> None:
    """Who let its turn pass comes after all others, however often it was overtaken, and is not the oldest (I7)."""
    late = waiting("late", priority=99)._replace(late=True, overtaken=PATIENCE)
    state = queue_of(late, waiting("a"))
    assert head_of(state) == "a"
    oldest = order.oldest(state)
    assert oldest is not None
    assert oldest.id == "a"
    only = queue_of(late)
    assert order.oldest(only) is None
    assert head_of(only) == "late"


def test_overtake_counts_one_call() -> None:
    """Only the named call is counted; forgiving forgets all counts and nothing else."""
    state = queue_of(waiting("a"), waiting("b"))
    before = state
    state = order.overtake(order.overtake(state, "a"), "a")
    assert [call.overtaken for call in state.queue] == [2, 0]
    assert order.forgive(state) == before


@pytest.mark.parametrize(("overtaken", "first"), [(9, "urgent"), (10, "old")])
def test_patience(overtaken: int, first: str) -> None:
    """A call that was overtaken ten times goes before every priority; nine times are not enough (I7)."""
    old = waiting("old", priority=-5)._replace(overtaken=overtaken)
    assert head_of(queue_of(old, waiting("urgent", priority=99))) == first


def test_the_oldest_is_passed_by_ten_later_calls() -> None:
    """A reading call lets ten cancelling ones pass and no eleventh; the next oldest begins at nothing (I7)."""
    state = queue_of(waiting("old"), waiting("next"))
    for number in range(PATIENCE):
        state = overtake(state, number)
    state = rules.join(state, at(), waiting("urgent", priority=99))
    refused = rules.admit(state, at(), "urgent", hold=HOLD).state
    assert refused.running is None
    state = rules.admit(refused, at(), "old", hold=HOLD).state
    assert state.running is not None
    assert state.running.id == "old"
    state = rules.finish(state, at(), state.running, "ok", Recovery()).state
    assert head_of(state) == "urgent"
    second = order.mine(state, "next")
    assert second is not None
    assert second.overtaken == 0


def test_only_the_oldest_ages() -> None:
    """A call that goes first because it came first overtakes nobody, and only the oldest is counted."""
    state = queue_of(waiting("a"), waiting("b"), waiting("c"))
    state = overtake(state, 0)
    assert [call.overtaken for call in state.queue] == [1, 0, 0]
    state = rules.admit(state, at(), "a", hold=HOLD).state
    assert [call.overtaken for call in state.queue] == [0, 0]


def test_a_call_that_the_counter_holds_back_does_not_age() -> None:
    """What waits for the call counter is overtaken by what costs nothing, and that does not count (I6, I7)."""
    state = fresh("us", rate=Rate(60.0, 1), interval=0.0)
    state = rules.join(state, at(), waiting("spends"))
    state = rules.admit(state, at(), "spends", hold=HOLD).state
    assert state.running is not None
    state = rules.finish(state, at(), state.running, "ok", Recovery()).state
    state = rules.join(state, at(), waiting("old"))
    for number in range(3 * PATIENCE):
        state = overtake(state, number)
    old = order.mine(state, "old")
    assert old is not None
    assert old.overtaken == 0


def test_a_call_for_which_too_little_is_left_ages() -> None:
    """Who waits for more of the counter than an urgent call spends is passed by ten of these, not for ever (I7)."""
    state = fresh("us", rate=Rate(1.0, 2), interval=0.0)
    for number in range(2):  # and now it is full
        state = overtake(state, number, cost=1)
    state = rules.join(state, at(), waiting("old", cost=2))
    second, admitted = 0, ""
    while admitted != "old":
        second += 1
        assert second <= PATIENCE + 2
        state = rules.join(state, at(second), waiting(f"{second}", priority=URGENT))
        for call in state.queue:
            state = rules.admit(state, at(second), call.id, hold=HOLD).state
        if state.running is not None:
            admitted = state.running.id
            state = rules.finish(
                state, at(second), state.running, "ok", Recovery()
            ).state
    assert second == PATIENCE + 2  # one more for what it costs more


def test_a_first_refusal_forgives() -> None:
    """After a first refusal an urgent call need not wait for a call that was overtaken too often but must wait."""
    state = queue_of(waiting("old"))
    for number in range(PATIENCE):
        state = overtake(state, number)
    state = rules.join(state, at(), waiting("refused", priority=URGENT))
    state = rules.admit(state, at(), "old", hold=HOLD).state
    call = state.running
    assert call is not None
    state = rules.join(state, at(), waiting("aged")._replace(overtaken=PATIENCE))
    state = rules.finish(state, at(), call, "invalid_nonce", Recovery()).state
    assert all(call.overtaken == 0 for call in state.queue)
    assert recovery.rest(state, at(), 0) > 0
    state = rules.admit(state, at(), "refused", hold=HOLD).state
    assert state.running is not None
    assert state.running.id == "refused"


def test_a_second_refusal_forgives_nobody() -> None:
    """Where all wait alike, who was overtaken too often stays in front."""
    aged = waiting("aged")._replace(overtaken=PATIENCE)
    state = rules.join(queue_of()._replace(refusals=1), at(), waiting("second"))
    state = rules.admit(state, at(), "second", hold=HOLD).state
    call = state.running
    assert call is not None
    state = rules.join(state, at(), aged)
    state = rules.finish(state, at(), call, "invalid_nonce", Recovery()).state
    assert [call.overtaken for call in state.queue] == [PATIENCE]


def test_the_count_is_kept() -> None:
    """How often a call was overtaken, and the reference it was made with, come back from the store."""
    state = queue_of(waiting("a")._replace(reference="userref=7"))
    state = overtake(order.overtake(state, "a"), 0)
    found = rows.decode(rows.encode(state, 1))
    assert found == state
    (call,) = found.queue
    assert (call.overtaken, call.reference) == (2, "userref=7")
