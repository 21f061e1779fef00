"""A step that fails."""

from __future__ import annotations

__all__ = ["BoomError", "fail"]


class BoomError(Exception):
    """The error of the tests of steps."""


def fail() -> None:
    """Be a step that fails."""
    raise BoomError("text")
