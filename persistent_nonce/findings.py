"""What was looked at, and what was found: for people."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """What was looked at, and what was found.

    Attributes:
        about: what was looked at.
        wrong: whether something is to be done.
        said: what was found.
        do: what is to be done, if anything.
    """

    about: str
    wrong: bool
    said: str
    do: str = ""
