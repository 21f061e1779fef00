"""The same processes over the SQLite store with real files: each of its calls is a step, and may end in a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import GateTimeoutError
from tests.support.machine_files import Files
from tests.support.machine_ledger import HOLD
from tests.support.machine_procedures import Order
from tests.support.machine_rules import GUARD, Interleavings
from tests.support.machine_runner import stepwise


class SharedFiles(Interleavings):
    """Processes on one database, killed between any two of its statements (I3)."""

    base: ClassVar[Path | None] = None

    def place(self) -> Files:
        """Return an empty directory."""
        return Files(self.base)

    @precondition(lambda self: self.world.steps > 30 * self.world.boots)
    @rule(seconds=st.sampled_from([-86_400, -3_600, -10, 0, 0, 60]))
    def the_machine_starts_anew(self, seconds: int) -> None:
        """Start another boot without a loss, with a clock that may come back wrong."""
        note("the machine starts anew")
        self.world.reboot()
        self.world.step_clock(seconds * SECOND)
        for _ in range(2):
            self.world.begin_process()


@pytest.mark.timeout(GUARD)
def test_interleavings_over_real_files(tmp_path: Path) -> None:
    """Whatever the order of the store's calls, kills within them and clock steps: I1 to I8 and I10 hold (fault A36)."""
    SharedFiles.base = tmp_path
    with stepwise():
        run_state_machine_as_test(SharedFiles)


def replayed(base_: Path, steps: Callable[[SharedFiles], None]) -> None:
    """Have a machine take steps that were found."""

    class Replayed(SharedFiles):
        """One of its own: a machine that is made under these settings keeps them."""

        base = base_

    @settings(max_examples=1)
    @given(st.none())  # for the machine's notes
    def replay(_: None) -> None:
        steps(Replayed())

    with stepwise():
        replay()


def test_what_a_killed_process_saw_may_never_have_counted(tmp_path: Path) -> None:
    """The books take a floor for as far ahead as the store does, whatever a killed process saw before (I10).

    Found after some thousands of interleavings: the books took that reading for one that was stored.
    """

    def steps(state: SharedFiles) -> None:
        state.begin(units=("ms", "ms"), rate=None, count=3)
        state.the_clock_is_set(seconds=-86_400)
        state.sets_a_floor(key="first key", pick=0, seconds=-10)
        state.is_killed_in_a_transaction(pick=0, point=3)
        state.sets_a_floor(key="first key", pick=0, seconds=-10)
        state.the_clock_is_set(seconds=-86_400)
        state.all_go_on(rounds=9, slowly=False)
        key, ledger = next(iter(state.world.ledgers.items()))
        stored, bound = state.world.processes[0].store.read(key), ledger.bound
        state.teardown()
        assert stored.offset > 0
        assert bound >= stored.bound

    replayed(tmp_path, steps)


def test_a_call_that_learned_of_its_turn_too_late_ends_with_a_reason(
    tmp_path: Path,
) -> None:
    """A call that was stopped between its admission and the news of it has no body, and says why (I5; A17).

    Found when that came into being: the books took it for a call that gave up early.
    """

    def steps(state: SharedFiles) -> None:
        state.begin(units=("ms", "ms"), rate=None, count=2)
        state.begin_calls(calls=[(0, Order())])
        state.one_goes_on(pick=0)
        state.its_call_is_made(pick=0)
        call = state.world.moving()[0]
        state.world.pass_time(2 * HOLD)
        state.teardown()
        assert isinstance(call.procedure.error, GateTimeoutError)
        assert "learned of its turn" in str(call.procedure.error)

    replayed(tmp_path, steps)
