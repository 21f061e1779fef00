"""Changes that could not be made yet, each to be made by whoever next can."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from persistent_nonce.errors import NonceError
from persistent_nonce.state import Change
from persistent_nonce.stores.failures import FOREIGN

__all__ = ["Pending"]

_LOG: Final = logging.getLogger("persistent_nonce")


class Pending(deque[tuple[str, Change]]):
    """Keys and their changes, oldest first; a deque, which threads and finalizers add to without a lock."""

    def drain(self, make: Callable[[str, Change], object]) -> None:
        """Make every change, under the store's lock; those that fail stay, and hold up no other key."""
        for _ in range(len(self)):
            key, change = self[0]
            try:
                make(key, change)
            except (NonceError, *FOREIGN) as error:
                _LOG.warning("a call could not be ended yet: %s", error)
                self.rotate(-1)
            else:
                self.popleft()
