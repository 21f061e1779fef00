"""Who may call, and who comes first, by examples; every order of events is tried in tests/property."""

from __future__ import annotations

import pytest

from persistent_nonce import rules
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.state import Changed, Rate, Running, Turn
from tests.support.ruling import admit, finish, queued, started
from tests.support.states import HOLD, at, fresh, waiting


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
