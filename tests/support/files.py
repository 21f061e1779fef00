"""What tests know of a file system's time."""

from __future__ import annotations

from pathlib import Path

__all__ = ["wait_for_tick"]


def wait_for_tick(directory: Path) -> None:
    """Wait until the file system's clock shows a later time than the last change in `directory`."""
    probe = directory.with_name(f"{directory.name}.probe")
    probe.touch()
    while probe.stat().st_ctime_ns <= directory.stat().st_ctime_ns:
        probe.touch()
