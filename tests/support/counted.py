"""A store that counts its transactions, and how far each has moved a key's mark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Change, KeyState
from persistent_nonce.stores.base import Epoch, Renewal
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock

__all__ = ["Counted", "draw", "store"]


class Counted(SQLiteStore):
    """A store that notes the mark after each of its transactions.

    Attributes:
        marks: the mark after each.
        words: what is looked at in place of the marks file, if anything.
    """

    def __init__(self, path: Path, clock: StillClock) -> None:
        self.marks: list[int] = []
        self.words: Callable[[Epoch], Sequence[int]] | None = None
        super().__init__(path, clock=clock)

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Do so, and note it."""
        state = super().update(key, change, durable=durable)
        self.marks.append(state.nonce)
        return state

    def lease(self, key: str, change: Renewal) -> tuple[KeyState, Epoch | None]:
        """Do so, and note it."""
        state, epoch = super().lease(key, change)
        self.marks.append(state.nonce)
        if self.words is not None and epoch is not None:
            epoch = epoch._replace(words=self.words(epoch))
        return state, epoch

    @property
    def sizes(self) -> list[int]:
        """How far each transaction has moved the mark."""
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]


def draw(provider: NonceProvider, count: int) -> list[int]:
    """Take so many nonces, one at a time."""
    return [provider.next() for _ in range(count)]


@pytest.fixture
def store(tmp_path: Path, clock: StillClock) -> Iterator[Counted]:
    """Yield a store by the test's clock."""
    with Counted(tmp_path / "nonces.db", clock) as opened:
        yield opened
