"""What the drop-in clients have in common: the store they share, and the errors of calls not sent."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

from persistent_nonce.errors import NonceError
from persistent_nonce.stores import open_store
from persistent_nonce.stores.base import Store

__all__ = ["default_store", "unsent"]

_mutex = threading.Lock()
_shared: list[Store] = []


def default_store() -> Store:
    """Return the store in the default place, opened once in a process.

    Raises:
        StoreError: it cannot be opened.
    """
    with _mutex:
        if not _shared:
            _shared.append(open_store())
        return _shared[0]


def unsent(error: NonceError, family: type[Exception]) -> NonceError:
    """Return `error` as an error of a client's own `family` too.

    A program that retries after such an error of its client may do so: nothing was sent.
    """
    return _rebuild(type(error), family, *error.args)


def _rebuild(kind: type[NonceError], family: type[Exception], *args: Any) -> NonceError:
    made: type[NonceError] = _both(kind, family)  # type: ignore[arg-type]  # classes are hashable
    return made(*args)


@cache
def _both(kind: type[NonceError], family: type[Exception]) -> type[NonceError]:
    def reduce(self: NonceError) -> tuple[Any, ...]:
        return _rebuild, (kind, family, *self.args)

    return type(kind.__name__, (kind, family), {"__reduce__": reduce})
