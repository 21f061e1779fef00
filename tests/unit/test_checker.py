"""The checker of histories finds what it is for."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.checker import Operation, read_logs, violations


def test_right_histories_pass() -> None:
    """Values in the order of time pass, and so do those of overlapping operations in any order."""
    assert violations([]) == []
    assert violations([Operation(1, 2, 10), Operation(3, 4, 11)]) == []
    assert violations([Operation(1, 4, 11), Operation(2, 3, 10)]) == []
    assert violations([Operation(1, 3, 11), Operation(3, 5, 10)]) == []


def test_repeated_value_is_found() -> None:
    """A value that two overlapping operations got is a violation (I1)."""
    assert len(violations([Operation(1, 4, 10), Operation(2, 3, 10)])) == 1


def test_overtaken_value_is_found() -> None:
    """A value not above one that was returned before it was asked for is a violation (I2)."""
    history = [Operation(1, 9, 50), Operation(2, 3, 12), Operation(5, 6, 11)]
    assert len(violations(history)) == 1


def test_agrees_with_comparing_all_pairs() -> None:
    """On small random histories it finds something exactly when a comparison of all pairs does."""
    chance = random.Random(7)
    outcomes = set()
    for _ in range(2_000):
        history = []
        for _ in range(5):
            call = chance.randrange(12)
            returned = call + chance.randrange(1, 5)
            history.append(Operation(call, returned, chance.randrange(12)))
        wrong = any(
            a is not b
            and (a.value == b.value or (a.returned < b.call and b.value <= a.value))
            for a in history
            for b in history
        )
        assert bool(violations(history)) == wrong
        outcomes.add(wrong)
    assert outcomes == {True, False}


def test_log_of_a_killed_process_is_read(tmp_path: Path) -> None:
    """A record that a kill cut off is left out, the ones before it count."""
    (tmp_path / "a.log").write_bytes(bytes(24) + b"\1" + bytes(23) + b"\1\2\3")
    assert read_logs(tmp_path) == [Operation(0, 0, 0), Operation(1, 0, 0)]
