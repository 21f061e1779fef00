"""The same processes over the SQLite store with real files: each of its calls is a step, and may end in a kill."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from persistent_nonce.clock import SECOND
from tests.support.machine_files import Files
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
