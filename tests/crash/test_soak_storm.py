"""The storm of `scripts/soak.py`, for seconds: it holds, and it can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import soak

pytest.importorskip("krakenex", reason="NOT RUN: some of its processes use krakenex")


def test_a_short_storm(tmp_path: Path) -> None:
    """Kills, stops, interrupts and clock steps for six seconds break nothing (I1 to I5; fault A33)."""
    done = soak(tmp_path, "--minutes=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "violations  0 of any kind" in done.stdout
    assert "integrity   2 checks" in done.stdout


def test_the_storm_finds_a_repeated_nonce(tmp_path: Path) -> None:
    """The storm ends with status 1 when it is given a history with a repeated nonce."""
    logs = tmp_path / "logs" / "nonces"
    logs.mkdir(parents=True)
    (logs / "planted.log").write_bytes(bytes(48))
    done = soak(tmp_path, "--minutes=0.01")
    assert done.returncode == 1
    assert "has the value of" in done.stdout, done.stdout + done.stderr
