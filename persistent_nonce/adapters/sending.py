"""One call on its way through a client: whether its bytes left, and what the exchange replied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from persistent_nonce import replies
from persistent_nonce.adapters.limits import Limit, never_connected
from persistent_nonce.adapters.unsent import unsent
from persistent_nonce.calls import Call
from persistent_nonce.errors import CallError
from persistent_nonce.state import fingerprint

__all__ = ["Sending", "aside", "current"]

T = TypeVar("T")

#: Of this thread, or of this task: a client signs and sends deep inside its own code.
_current: Final[ContextVar[Sending[Any] | None]] = ContextVar("sending", default=None)


def current() -> Sending[Any] | None:
    """Return the call that this thread or task is sending."""
    return _current.get()


@contextmanager
def aside() -> Iterator[None]:
    """Send what is no part of the call, such as a public request that its client, or a task of its, makes meanwhile."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


class Sending(Generic[T]):
    """A call between its turn and its end; `with` it, and it says how the call ended.

    A refused nonce is kept from the caller, as the reply or the error that the client makes of it.

    Args:
        call: which has its turn.
        longest: seconds that the whole reply may take.
        family: the client's error that its users take for one of a call that was not sent.

    Attributes:
        requests: how often the bytes of the call may have left; a client of the program's own may send them again.
        counts: whether `requests` is sure to count all of them.
        once: whether its client sends it once only, if nothing counts.
        signed: whether there are bytes that can have left.
        reply: what the exchange said, in its own form; None if it said nothing of that form.
    """

    def __init__(self, call: Call, longest: float, family: type[Exception]) -> None:
        self.call = call
        self.longest = longest
        self._family = family
        self.requests = 0
        self.counts = False
        self.once = True
        self.signed = False
        self.reply: Any = None
        self._errors: list[str] | None = None
        self._value: T | None = None
        self._refusal: Exception | None = None
        self._token: Token[Sending[Any] | None] | None = None

    def result(self) -> T:
        """Return what the client made of the reply, or raise what it raised."""
        if self._refusal is not None:
            raise self._refusal
        return self._value  # type: ignore[return-value]  # without an error there is one

    def returned(self, value: T) -> None:
        """Note what the client made of the reply."""
        self._value = value

    def sign(self, key: str) -> None:
        """Note that the client signs the call.

        Raises:
            CallError: it does so with another key than the call is of: another thread set that, and the nonce is the
                former key's. It is an error of the client's family too.
        """
        if fingerprint(key) != self.call.key:
            error = CallError(
                f"the client's key was changed while {self.call.method} waited",
                "give each key a client of its own",
            )
            raise unsent(error, self._family)
        self.signed = True

    def leaves(self) -> None:
        """Note that the bytes are about to leave: what was said of an earlier sending does not hold for this one."""
        self.reply = self._errors = None

    @contextmanager
    def limited(
        self, seconds: float, *, error: type[Exception] | None = None
    ) -> Iterator[Limit]:
        """Give what is sent through `requests` so many seconds for its whole reply, and count how often it leaves.

        Args:
            seconds: unless the call may take less.
            error: of the client, to be raised when the time is up; None is that of `requests`.
        """
        with Limit(min(seconds, self.longest), error=error) as limit:
            try:
                yield limit
            finally:
                # Added, since a program's own code may send twice.
                self.requests += limit.requests
                self.counts |= limit.told

    def replied(self, reply: Any) -> None:
        """Note a reply, as it was parsed."""
        errors = reply.get("error") if isinstance(reply, dict) else None
        self._errors = None
        if isinstance(errors, list) and all(isinstance(e, str) for e in errors):
            self.reply, self._errors = reply, errors

    def received(self, status: int, body: str | bytes) -> None:
        """Note a reply, as it came; a status that is no success is one only with the exchange's own words."""
        try:
            self.replied(json.loads(body))
        except ValueError:
            self.replied(None)
        if status != HTTPStatus.OK and not self._errors:
            self._errors = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._token is not None:
            _current.reset(self._token)
        refused = self._conclude(error)
        if refused and isinstance(error, Exception):
            self._refusal = error
            return True
        return False

    def _conclude(self, error: BaseException | None) -> bool:
        """Say how the call ended; return whether its nonce was refused."""
        errors = self._errors
        if errors is None:
            if error is None:
                self.call.settle("unknown", "no reply of the exchange's form")
            elif not self._may_have_left(error):
                self.call.not_sent()
            return False
        if self.requests > 1 and replies.is_invalid_nonce(errors):
            # It refuses the second sending of these bytes, since it has executed the first.
            self.call.settle("unknown", "; ".join(errors))
            return False
        return replies.settle(self.call, errors).outcome == "invalid_nonce"

    def _may_have_left(self, error: BaseException) -> bool:
        if not self.signed:
            return False
        # Only of the last sending does the error say that there was no connection.
        return self.requests > 0 or not (
            self.counts or (self.once and never_connected(error))
        )
