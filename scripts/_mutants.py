"""The list of seeded faults, and how one is applied to a copy of the package."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ROOT", "Mutant", "mutants"]

#: The repository.
ROOT: Final = Path(__file__).resolve().parents[1]

_LIST: Final = Path(__file__).with_suffix(".toml")
_PACKAGE: Final = "persistent_nonce"


class Mutant(NamedTuple):
    """A fault, as the head of the list describes it."""

    id: str
    file: str
    old: str
    new: str
    breaks: str
    tests: tuple[str, ...]

    def source(self, root: Path) -> Path:
        """Return the file that is changed, in the tree `root`."""
        return root / _PACKAGE / self.file

    def applied(self, text: str) -> str:
        """Return the text of the file with the fault in it.

        Raises:
            ValueError: the old text does not stand there exactly once, or nothing would change.
        """
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.id}: its text stands {found} times in {self.file}")
        if self.old == self.new:
            raise ValueError(f"{self.id} changes nothing")
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """Return the list in its order.

    Raises:
        TypeError: an entry has other fields than a mutant.
    """
    with _LIST.open("rb") as file:
        entries = tomllib.load(file)["mutant"]
    return [Mutant(**{**entry, "tests": (*entry["tests"],)}) for entry in entries]
