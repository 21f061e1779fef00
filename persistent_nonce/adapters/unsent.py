"""The errors of calls that were not sent: ours, and of a client's own family too."""

from __future__ import annotations

from functools import cache
from typing import Any

from persistent_nonce.errors import NonceError

__all__ = ["unsent"]


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
