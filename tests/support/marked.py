"""States of keys that have marks beside their database."""

from __future__ import annotations

from persistent_nonce.state import KeyState
from tests.support.states import KEY

__all__ = ["marked"]


def marked(
    nonce: int, *, key: str = KEY, unit: str = "ns", ceiling: int = 0, boot: str = ""
) -> KeyState:
    """Return a state with a mark."""
    return KeyState(key, unit=unit, nonce=nonce, ceiling=ceiling, boot=boot)
