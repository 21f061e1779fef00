"""Interrupts that strike anywhere in a procedure of steps do not keep it from cleaning up."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest

from persistent_nonce.steps import Steps, do, pause, run
from tests.support.failing_steps import BoomError, fail


class Interrupt(KeyboardInterrupt):
    """The interrupt of these tests."""


@pytest.mark.parametrize("when", ["in a step", "in a pause"])
def test_an_interrupt_reaches_the_procedure(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt of a step or of a pause is raised in the procedure, which cleans up before the caller sees it."""

    def interrupted(*_: object) -> None:
        raise Interrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    cleaned = []

    async def procedure() -> None:
        try:
            await (do(interrupted) if when == "in a step" else pause(1))
        finally:
            await do(lambda: cleaned.append(1))

    with pytest.raises(Interrupt):
        run(procedure())
    assert cleaned == [1]


# --- signals that strike anywhere


@contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGALRM raise Interrupt on the main thread."""

    def strike(number: int, frame: FrameType | None) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, strike)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def storm(procedure: Callable[[list[str]], Steps[None]], tries: int) -> tuple[int, int]:
    """Run `procedure` so often with an interrupt at a random moment; return interrupted and uncleaned runs."""
    random_moment = random.Random(7).uniform
    struck = uncleaned = 0
    with interrupts():
        for _ in range(tries):
            events: list[str] = []
            steps_of_it = procedure(events)
            try:
                signal.setitimer(signal.ITIMER_REAL, random_moment(2e-5, 1.2e-4))
                run(steps_of_it)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                struck += 1
            if events == ["begun"]:
                uncleaned += 1
            with suppress(Interrupt):
                steps_of_it.close()
    return struck, uncleaned


@pytest.mark.storm
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("call", [int, fail])
def test_interrupts_between_steps(call: Callable[[], Any]) -> None:
    """Wherever an interrupt strikes, a procedure that has begun cleans up (trap 6, fault A18).

    It may strike just when a failed step's error is on its way to the procedure.
    """

    async def procedure(events: list[str]) -> None:
        try:
            events.append("begun")
            for _ in range(200):
                with suppress(BoomError):
                    await do(call)
        finally:
            events.append("cleaned")

    struck, uncleaned = storm(procedure, 3_000)
    assert struck > 1_000
    assert uncleaned == 0


@pytest.mark.storm
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_interrupts_leave_nothing_taken() -> None:
    """What a step took before an interrupt, the cleaning step gives back, also if the step's result was lost."""
    taken: set[int] = set()

    async def procedure(events: list[str]) -> None:
        try:
            events.append("begun")
            for number in range(100):
                try:
                    await do(partial(taken.add, number))
                finally:
                    await do(partial(taken.discard, number))
        finally:
            events.append("cleaned")
            taken.clear()  # a second interrupt is not part of this storm

    struck, uncleaned = storm(procedure, 2_000)
    assert struck > 500
    assert (uncleaned, taken) == (0, set())
