"""A process killed before and after each thing it does: the next one goes on, and nobody has to help it (I3)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.doomed_works import WORKS
from tests.support.kill_series import series
from tests.support.killing import profile
from tests.support.processes import Children

#: How many processes die at each point, one after the other.
AGAIN = 20 if profile() == "deep" else 1

#: What is tried in each run; the others differ little from these.
USUAL = [work for work in WORKS if work not in ("durable", "reserving")]

#: How many points each work has at least, and of what kind: one that vanishes has to be looked for; more are welcome.
#: A system call, a statement, a step or a way through the lock makes two: before it and after it.
LEAST: dict[str, dict[str, int]] = {
    "opening": {
        "all": 188,
        "close": 16,
        "execute": 122,
        "fchmod": 6,
        "flock": 12,
        "fsync": 6,
        "lock": 6,
        "open": 12,
        "pread": 4,
        "pwrite": 4,
    },
    "plain": {"all": 10, "execute": 2, "flock": 4, "lock": 2, "pwrite": 2},
    "ceiling": {"all": 20, "execute": 12, "flock": 4, "lock": 2, "pwrite": 2},
    "renewing": {"all": 10, "execute": 2, "flock": 4, "lock": 2, "pwrite": 2},
    "waking": {
        "all": 30,
        "execute": 16,
        "flock": 4,
        "lock": 2,
        "pread": 4,
        "pwrite": 4,
    },
    "floor": {"all": 14, "execute": 6, "flock": 4, "lock": 2, "pwrite": 2},
    "reserving": {"all": 20, "execute": 12, "flock": 4, "lock": 2, "pwrite": 2},
    "calling": {
        "all": 52,
        "execute": 20,
        "fchmod": 2,
        "flock": 14,
        "lock": 6,
        "open": 2,
        "pwrite": 2,
        "step": 6,
    },
    "durable": {
        "all": 58,
        "execute": 26,
        "fchmod": 2,
        "flock": 14,
        "lock": 6,
        "open": 2,
        "pwrite": 2,
        "step": 6,
    },
    "behind": {
        "all": 96,
        "close": 4,
        "execute": 32,
        "fchmod": 2,
        "flock": 26,
        "lock": 8,
        "open": 6,
        "pread": 4,
        "pwrite": 2,
        "step": 12,
    },
    "task": {
        "all": 56,
        "execute": 24,
        "fchmod": 2,
        "flock": 14,
        "lock": 6,
        "open": 2,
        "pread": 4,
        "pwrite": 2,
        "task": 4,  # of 6: a step that is done at once is not waited for
    },
    "refused": {
        "all": 44,
        "execute": 10,
        "fchmod": 2,
        "flock": 14,
        "lock": 6,
        "open": 2,
        "pwrite": 4,
        "step": 6,
    },
    "closing": {
        "all": 20,
        "close": 10,
        "execute": 2,
        "flock": 4,
        "lock": 2,
        "unlink": 2,
    },
}

#: Between which of its commits a nonce that needs a ceiling can be interrupted: the ceiling, `synced` with the nonce,
#: the mark, the hand-out.
CEILING = [
    "after _transact/_prove/_store/write_row execute",
    "before transact/_transact/_store/write_row execute",
    "after transact/_transact/_store/write_row execute",
    "after transact/_transact/_store/write pwrite",
    "after update/_change/_hold/hold flock",
    "after update/_change/_hold/hold lock",
]


@pytest.mark.timeout(3600 if AGAIN > 1 else 600)
@pytest.mark.parametrize("work", WORKS if AGAIN > 1 else USUAL)
def test_killed_at_each_point(tmp_path: Path, work: str) -> None:
    """Killed anywhere, a process leaves a free lock, no lower nonce, and its call on record (faults A2, A36)."""
    # By a clock that stands each boot skips five seconds of the quarter of an hour that there is (I10).
    again = min(AGAIN, 2) if work == "waking" else AGAIN
    with Children() as children:
        found = children.call(series, work, tmp_path, again, False).result()
    assert found["wrong"] == []
    assert found["ended"]
    assert found["session files"] <= 4  # those of the last to die, not of all
    census = Counter(point.rsplit(" ", 1)[1] for point in found["census"])
    census["all"] = len(found["census"])
    assert len(found["points"]) >= census["all"] * again
    fewer = {
        kind: f"{census[kind]} of {least}"
        for kind, least in LEAST[work].items()
        if census[kind] < least
    }
    assert not fewer
    if work == "ceiling":
        assert set(CEILING) <= set(found["points"])


@pytest.mark.timeout(3600 if AGAIN > 1 else 600)
@pytest.mark.parametrize("work", WORKS if AGAIN > 1 else ["ceiling", "waking"])
def test_killed_again(tmp_path: Path, work: str) -> None:
    """When whoever goes on after a kill is killed too, the one after it goes on as well (I3; faults A7, A36)."""
    for number in range(AGAIN):
        # Each in a place of its own: a clock that stands does not let ever more boots skip ever more (I10).
        place = tmp_path / f"round {number}"
        place.mkdir(0o700)
        with Children() as children:
            found = children.call(series, work, place, 1, True).result()
        assert found["wrong"] == []
        assert found["ended"]
        assert len(found["points"]) >= LEAST[work]["all"]
