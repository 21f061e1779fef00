"""What `doctor` finds wrong with a key, and what it tells people to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.commands.checks import check_key
from persistent_nonce.state import KeyState
from tests.support.shown import TICKS, sleeping, used
from tests.support.states import HOLD, WALL, at, fresh, running, waiting


def ill(
    state: KeyState, after: float = 0.0, standing: Callable[[str], str] = sleeping
) -> list[str]:
    """Return what is wrong with a key."""
    found = check_key(state, at(after), standing)
    assert all(finding.do for finding in found if finding.wrong)
    return [f"{f.said} -> {f.do}" for f in found if f.wrong]


@pytest.mark.parametrize(
    "state",
    [
        fresh(),
        used(),
        used(nonce=TICKS + 60_000, jumped_at=TICKS + 60_000),
        used(nonce=TICKS + 3_600_000, offset=3_600_000),
        used(running=running(session="5-1-1-a"), queue=(waiting(session="6-1-1-a"),)),
        used(queue=(waiting(session="6-1-1-a"),), boot="boot-0"),
        used(not_before=WALL + SECOND, set_at=WALL, reason="Throttled"),
    ],
)
def test_a_key_in_use_is_well(state: KeyState) -> None:
    """A new key, one that was jumped or raised on purpose, and one in use have no finding."""
    assert ill(state) == []


def test_a_closed_key() -> None:
    """A closed key is a finding with its diagnosis and what opens it."""
    (found,) = ill(used(closed=True, refusals=3, diagnosis="somebody else"))
    assert found.startswith("closed: somebody else -> ")
    assert "reopen" in found


def test_refused_nonces() -> None:
    """Refused nonces are a finding before they close the key."""
    (found,) = ill(used(refusals=2))
    assert found.startswith("2 of 3 nonces in a row were refused")


def test_a_mark_in_another_unit() -> None:
    """A floor given in microseconds to a key that counts in milliseconds is recognised."""
    far = TICKS * 1000
    (found,) = ill(used(nonce=far, offset=far - TICKS))
    assert "looks like a time in us, but the key counts in ms" in found


def test_a_long_lead() -> None:
    """A mark that has used up more than half of what it may be ahead is a finding."""
    assert ill(used(nonce=TICKS + 449_000)) == []
    (found,) = ill(used(nonce=TICKS + 451_000))
    assert found.startswith("451 s ahead of the clock, of 900 s that are allowed")
    assert ill(used(nonce=TICKS + 451_000), after=10.0) == []


def test_a_clock_set_back() -> None:
    """A clock that stood later when a nonce was taken is a finding."""
    state = used(seen=TICKS + 60_000)
    (found,) = ill(state)
    assert found.startswith("the clock stood 60 s later")
    assert ill(state, after=56.0) == []


def test_a_dead_process_in_mid_call() -> None:
    """The call of a dead process may have been executed: that is to be looked up."""
    state = used(running=running(session="5-1-1-a", nonce=9))
    (found,) = ill(state, standing=lambda session: "gone")
    assert found.startswith("Balance with nonce 9 of process 5 was in flight when its process ended")  # fmt: skip


def test_a_reboot_in_mid_call() -> None:
    """So is a call that a reboot cut off."""
    (found,) = ill(used(running=running(session="5-1-1-a"), boot="boot-0"))
    assert "was in flight when its process ended" in found


def test_a_stopped_process_in_mid_call() -> None:
    """A stopped process that has the call in flight is named, with how to let it go on."""
    state = used(running=running(session="5-1-1-a"))
    (found,) = ill(state, standing=lambda session: "stopped")
    assert found.endswith("let it go on (kill -CONT 5), or end it")


def test_a_call_without_end() -> None:
    """A call that has lasted longer than it may is a finding."""
    state = used(running=running(session="5-1-1-a"))
    (found,) = ill(state, after=HOLD / SECOND + 1)
    assert "in flight for longer than it may be" in found


def test_a_stopped_process_in_the_queue() -> None:
    """A stopped process that waits is named once, however many calls it has in the queue."""
    queue = (waiting("a", session="6-1-1-a"), waiting("b", session="6-1-1-a"))
    (found,) = ill(used(queue=queue), standing=lambda session: "stopped")
    assert found.startswith("process 6 waits for its turn, and is stopped")
