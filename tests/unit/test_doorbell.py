"""What wakes the next call early: rung by whoever ends a call, and never more than a hint."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from persistent_nonce import doorbell
from persistent_nonce.doorbell import Doorbell, ring
from tests.support.callers import GUARD
from tests.support.states import fresh, running, waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from persistent_nonce.state import KeyState

#: A name that no other test's call has.
ID: Final = f"{os.getpid()}-bell:1"

#: Rings for that call from a process of its own.
RING: Final = """
import sys
from persistent_nonce.doorbell import ring
from persistent_nonce.state import KeyState, Waiting
ring(KeyState("", queue=(Waiting(sys.argv[1], "", "", 1, 0, 0),)))
"""


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    """Return a bell that is up."""
    made = Doorbell(lambda: ID)
    made.wait(0.0)
    yield made
    made.close()


def next_is(id: str) -> KeyState:
    """Return a state in which nothing runs and the call `id` is next."""
    return fresh()._replace(queue=(waiting(id), waiting("last")._replace(ticket=1)))


def test_the_next_call_is_woken(bell: Doorbell) -> None:
    """A pause ends when somebody rings, also if it begins only then; the state comes back as it was."""
    state = next_is(ID)
    assert ring(state) is state
    assert bell.wait(GUARD)


def test_it_is_woken_by_another_process(bell: Doorbell) -> None:
    """Who rings may be another process."""
    subprocess.run([sys.executable, "-c", RING, ID], check=True, timeout=GUARD)
    assert bell.wait(GUARD)


@pytest.mark.parametrize(
    "state",
    [next_is("1-other:1"), next_is(ID)._replace(running=running("1-other:2")), fresh()],
    ids=["another is next", "a call runs", "nobody waits"],
)
def test_nobody_else_is_woken(bell: Doorbell, state: KeyState) -> None:
    """A call that cannot be next is left alone, and one that hears nothing is no error."""
    assert ring(state) is state
    assert not bell.wait(0.01)


def test_who_was_rung_for_in_vain_rests_first(bell: Doorbell) -> None:
    """Rings that follow each other end every other pause: a stranger who rings all the time keeps nobody busy."""
    for _ in range(4):
        ring(next_is(ID))
    begin = time.monotonic()
    assert [bell.wait(0.05) for _ in range(4)] == [True, False, True, False]
    assert time.monotonic() - begin >= 0.1


def test_a_bell_that_is_taken_down_has_no_file() -> None:
    """A call that waited leaves nothing open, and one that never waited opened nothing."""
    before = os.listdir("/proc/self/fd")
    bell = Doorbell(lambda: ID)
    bell.close()
    bell.wait(0.0)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    bell.close()
    bell.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("what", ["no socket", "name in use", "great number"])
def test_without_a_bell_one_waits(
    what: str, bell: Doorbell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no bell can be had, a pause lasts as long as it was to, and ringing is no error (I8)."""

    def none() -> None:
        raise OSError("too many open files")

    if what == "no socket":
        monkeypatch.setattr(doorbell, "_socket", none)
    if what == "great number":
        monkeypatch.setattr(doorbell, "_SELECTABLE", 0)
        bell.close()
    mute = Doorbell(lambda: ID)
    begin = time.monotonic()
    ring(next_is(ID))
    assert not mute.wait(0.02)
    assert time.monotonic() - begin >= 0.02
    mute.close()


def test_an_id_that_is_no_name() -> None:
    """What stands in the state of a shared store is no reason for a call not to end (I9)."""
    for name in ("\ud800", "x" * 200, "\0"):
        ring(fresh()._replace(queue=(waiting(name),)))
