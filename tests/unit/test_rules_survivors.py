"""What a general mutation run over the pure functions found untested: each test here fails for one of its changes."""

from __future__ import annotations

from persistent_nonce import recovery
from persistent_nonce.clock import SECOND
from persistent_nonce.state import Recovery
from tests.support.states import at, fresh, running

# --- recovery


def test_the_first_of_two_equal_back_offs_stays() -> None:
    """A back-off that ends at the same moment as the one that is set changes nothing, neither reason nor exemption."""
    state = recovery.lockout(fresh(), at(), 5 * SECOND, "first", exempt=True)
    assert recovery.lockout(state, at(), 5 * SECOND, "second") is state


def test_a_jump_that_ended_at_a_nonce_came_before_it() -> None:
    """A refused nonce that is the mark of the last jump itself was not yet answered by a jump (I10)."""
    state = fresh()._replace(nonce=7_000, jumped_at=7_000)
    state = recovery.refuse(state, at(), running(nonce=7_000), Recovery())
    assert state.jumped_at > 7_000


def test_the_diagnosis() -> None:
    """It tells in words how many, which nonce, how far ahead of the clock, and what can be done."""
    state = fresh("ms")._replace(attempts=1)
    nonce = at(90).wall // 10**6
    state = recovery.refuse(state, at(), running(nonce=nonce), Recovery())
    assert state.diagnosis == (
        f"1 nonces in a row were refused, the last {nonce} in ms, 90 s ahead of the clock. Another program uses this "
        "key, probably in a finer unit: stop it or give it a key of its own, raise the floor above its nonces, or "
        "create a new key"
    )
