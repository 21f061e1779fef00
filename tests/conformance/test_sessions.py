"""What a session owes: ids of its own, and a life that others can see."""

from __future__ import annotations

from persistent_nonce.clock import SYSTEM_CLOCK, Now
from persistent_nonce.state import Changed, KeyState, Waiting
from persistent_nonce.stores.base import Store
from tests.conformance.conftest import Opener

KEY = "0123456789abcdef"


def test_session_is_begun_once(real: Store) -> None:
    """A process has one session in a store, with no calls at first."""
    session = real.session()
    assert real.session() is session
    assert session.live == set()


def test_session_that_is_known(real: Store) -> None:
    """A session is known once it has begun, and no more when the store is closed."""
    assert real.known_session() is None
    session = real.session()
    assert real.known_session() is session
    real.close()
    assert real.known_session() is None


def test_ids_are_the_sessions_own(real: Store) -> None:
    """No two ids are the same, and each begins with the session's name, of four parts."""
    session = real.session()
    ids = [session.new_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(id.startswith(f"{session.name}:") for id in ids)
    assert len(session.name.split("-")) == 4


def test_living_session_is_not_dead(real: Store) -> None:
    """A session does not find itself dead, and asking for nobody finds nobody."""
    session = real.session()
    assert session.dead([session.name]) == frozenset()
    assert session.dead([]) == frozenset()


def test_ended_session_is_dead(opener: Opener) -> None:
    """A session that a row names ends with its store's closing; the next one is another, and finds it dead for good."""
    store = opener(SYSTEM_CLOCK)
    former = store.session().name
    call = Waiting("id", former, "Balance", cost=1, priority=0, since=0)

    def wait(state: KeyState, now: Now) -> Changed:
        return Changed(state._replace(queue=(call,)))

    store.update(KEY, wait)
    store.close()
    session = opener(SYSTEM_CLOCK).session()
    assert session.name != former
    for _ in range(2):
        assert session.dead([former, session.name]) == {former}
