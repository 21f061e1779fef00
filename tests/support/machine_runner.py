"""A third runner of procedures: one step at a time, whichever a test chooses, or dropped half-way to model a crash.

`run` and `arun` carry a procedure out to its end. Here a test says when a call that a procedure waits for is made,
when its result is taken, and what strikes in between; so the interleavings of many procedures are its to choose.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from persistent_nonce import calls
from persistent_nonce.clock import nanoseconds
from persistent_nonce.steps import Step, Steps

__all__ = ["Killed", "Procedure", "stepwise"]

T = TypeVar("T")

_resumed: list[Procedure] = []


class Killed(BaseException):
    """The process ended in the middle of a call, as by SIGKILL; nobody in it handles that."""


class Procedure:
    """A procedure in the hands of a test.

    Attributes:
        due: while it pauses, the `mono` time at which that ends.
        made: whether the call that it waits for was made, its result not taken yet.
        ended: whether it has come to its end; `error` is what it raised, `result` what it returned.
    """

    def __init__(self, number: int, name: str, steps: Steps[Any]) -> None:
        self.number = number
        self.name = name
        self.due: int | None = None
        self.made = False
        self.ended = False
        self.error: BaseException | None = None
        self.result: Any = None
        self._steps = steps
        self._step: Step = 0.0
        self._value: Any = None
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def pauses(self) -> bool:
        """Whether it waits for time to go by."""
        return self.due is not None

    def begin(self, mono: int) -> None:
        """Run up to the first step."""
        self._go_on(mono, None)

    def make(self) -> None:
        """Make the call it waits for; the result is kept until it is taken.

        Raises:
            Killed: the process ended in the middle of it.
            AssertionError: a check of the test's failed, which is not the procedure's to handle.
        """
        if self.made:
            return
        self.made = True
        if not callable(self._step):
            return
        try:
            self._value = self._step()
        except (Killed, AssertionError):
            raise
        except BaseException as error:  # noqa: BLE001 - the procedure's to handle
            self._failure = error

    def resume(self, mono: int) -> None:
        """Take the result, and run up to the next step."""
        failure, self._failure = self._failure, None
        self._go_on(mono, failure)

    def strike(self, error: BaseException, mono: int) -> None:
        """Throw `error` in where it waits; a result that was not taken is lost."""
        self._value = self._failure = None
        self._go_on(mono, error)

    def drop(self) -> None:
        """Let nobody ever go on with it, as when a loop is closed without waiting."""
        self.ended = True
        self._steps.close()

    def bury(self) -> None:
        """End it after its process: no step is carried out any more."""
        self.ended = True
        while True:
            try:
                self._steps.throw(Killed())
            except BaseException:  # noqa: BLE001 - Killed, or what its handlers made of it
                return

    def _go_on(self, mono: int, failure: BaseException | None) -> None:
        value, self._value = self._value, None
        self.made, self.due = False, None
        _resumed.append(self)
        try:
            if failure is None:
                self._step = self._steps.send(value)
            else:
                self._step = self._steps.throw(failure)
        except StopIteration as end:
            self.ended, self.result = True, end.value
        except BaseException as error:
            self.ended, self.error = True, error
            if isinstance(error, AssertionError):
                raise
        finally:
            _resumed.pop()
        if not self.ended and isinstance(self._step, float):
            self.due = mono + nanoseconds(self._step)


def _whom() -> tuple[int, int]:
    """Return who is running: each procedure counts as a thread of its own."""
    return _resumed[-1].number, 0


async def _inline(steps: Steps[T], bell: None = None) -> T:
    """Hand the steps of `async with` on to whoever drives the procedure around it."""
    return await steps


@contextmanager
def stepwise() -> Iterator[None]:
    """Let `async with` on a call yield its steps to the procedure's own runner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "arun", _inline)
        # Each looks for itself, as a thread does: tasks that wait together have tests of their own, on real loops.
        patch.setattr(calls, "Bell", lambda: None)
        patch.setattr(calls, "identity", _whom)
        # What it says of each refusal would be kept for the report, thousands of times.
        patch.setattr(logging.getLogger("persistent_nonce"), "disabled", True)
        yield
