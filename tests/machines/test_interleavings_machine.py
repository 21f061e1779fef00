"""Processes, their procedures one step at a time, crashes, power cuts and clocks, over a store that forgets."""

from __future__ import annotations

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from persistent_nonce.clock import SECOND
from tests.support.machine_disk import Volatile
from tests.support.machine_rules import GUARD, Interleavings
from tests.support.machine_runner import stepwise


class SharedDisk(Interleavings):
    """Processes on a disk that forgets what was not synced when the power is cut (I4)."""

    def place(self) -> Volatile:
        """Return an empty disk."""
        self.volatile = Volatile()
        return self.volatile

    @precondition(lambda self: self.world.steps > 30 * self.world.boots)
    @rule(
        share=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
        seconds=st.sampled_from([-86_400, -3_600, -10, 0, 0, 60]),
    )
    def the_power_is_cut(self, share: float, seconds: int) -> None:
        """Cut the power; a part of what was not synced is lost, and the clock may come back wrong."""
        world, disk = self.world, self.volatile.disk
        assert disk is not None
        world.reboot()
        lost = disk.lose(share)
        note(f"the power is cut, {lost} commits are lost")
        for ledger in world.ledgers.values():
            ledger.forget()
        world.step_clock(seconds * SECOND)
        for _ in range(2):
            world.begin_process()


@pytest.mark.timeout(GUARD)
def test_interleavings_over_a_disk_that_forgets() -> None:
    """Whatever the order of steps, crashes, power cuts and clock steps: I1 to I8 and I10 hold (faults A2, A7, A8)."""
    with stepwise():
        run_state_machine_as_test(SharedDisk)
