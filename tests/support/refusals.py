"""What is to be refused: by an error of our tree, which is one line with a hint."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from persistent_nonce.errors import NonceError

__all__ = ["good", "refused"]


def good(error: NonceError) -> None:
    """Check that an error is one line with a hint."""
    assert error.hint
    assert len(str(error).splitlines()) == 1
    assert str(error).isprintable()
    assert len(str(error)) < 600


def refused(kind: type[NonceError], do: Callable[[], object]) -> str:
    """Check that `do` is refused with a good error, and return its text."""
    with pytest.raises(kind) as caught:
        do()
    good(caught.value)
    return str(caught.value)
