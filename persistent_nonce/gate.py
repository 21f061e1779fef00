"""One call in flight per key, over all threads, tasks and processes of a host, in order and at the key's pace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from persistent_nonce.arguments import (
    check_label,
    check_method,
    check_reference,
    check_store,
    object_argument,
    seconds_argument,
    whole_argument,
)
from persistent_nonce.calls import Call
from persistent_nonce.clock import nanoseconds
from persistent_nonce.errors import InvalidNonceError
from persistent_nonce.passage import Passage
from persistent_nonce.state import Rate, Recovery, Wanted, check_unit, fingerprint
from persistent_nonce.stores.base import Store

__all__ = ["Attempt", "CallGate"]

_MOST: Final = 1_000_000


class CallGate:
    """The way to an exchange for the calls of one key.

    Args:
        store, key, label, unit: as of a `NonceProvider`.
        min_interval: seconds between the starts of two calls; None follows the key's own, 0.2 at first.
        rate: the exchange's call counter; None follows the key's own, none at first.
        timeout: seconds a call may wait for its turn.
        hold_timeout: seconds after which a call that has not ended is overtaken; more than any request may take.
        recovery: what is done about a refused nonce; None is `Recovery()`, but for what is stored with the key.
        default_rate: the call counter of a key for which nobody has named one.
        default_unit: likewise; ms if this is None too.

    Attributes:
        key: the fingerprint of the key.
        store: as it was given.

    Raises:
        ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        min_interval: float | None = None,
        rate: Rate | None = None,
        timeout: float = 60.0,
        hold_timeout: float = 300.0,
        recovery: Recovery | None = None,
        label: str | None = None,
        unit: str | None = None,
        default_rate: Rate | None = None,
        default_unit: str | None = None,
    ) -> None:
        check_store(store)
        object_argument("rate", rate, Rate, 'a Rate, as kraken.rate("pro") returns')
        object_argument("recovery", recovery, Recovery, "a Recovery, or leave it out")
        self.key = fingerprint(key)
        self.store = store
        self._timeout = seconds_argument("timeout", timeout)
        self._hold = seconds_argument("hold_timeout", hold_timeout, least=0.001)
        self._recovery = recovery or Recovery()
        self._wanted = Wanted(
            unit=None if unit is None else check_unit(unit),
            label=None if label is None else check_label(label),
            min_interval=None
            if min_interval is None
            else nanoseconds(seconds_argument("min_interval", min_interval)),
            rate=rate,
            default_rate=default_rate,
            default_unit=None if default_unit is None else check_unit(default_unit),
            attempts=None if recovery is None else recovery.attempts,
            max_lead=None if recovery is None else nanoseconds(recovery.max_lead),
            greatest=None if recovery is None else recovery.greatest,
        )

    def call(
        self,
        method: str,
        *,
        cost: int = 1,
        priority: int = 0,
        timeout: float | None = None,
        durable: bool = False,
        reference: str = "",
    ) -> Call:
        """Return a call to be entered once, by `with` or `async with`.

        Args:
            method: what is called; for the record.
            cost: what the exchange's counter charges for it; 0 skips the counter.
            priority: higher goes first, but the oldest waiting call lets no more than 10 later ones pass; from 20 a
                call does not wait for the first back-off after a refused nonce.
            timeout: seconds to wait for the turn; None is the gate's.
            durable: have the record of the call on the disk before it starts, for what changes something.
            reference: the caller's own id of what the call places, kept with its record: 1 to 64 printable characters.

        Raises on entering:
            GateTimeoutError: no turn within the timeout; the message names the holder.
            LockedOutError: a shared back-off ends after the timeout.
            KeyClosedError: the key is closed.
            ForkedCallError: the store was in use while this process was forked.
            NestedCallError: this thread or task has a call of the key, or waits for one.
            NonceRangeError, ConfigurationError, StoreError: as from a provider; nothing was sent.
        """
        return Call(
            self.store,
            self.key,
            self._passage(
                method, cost, priority, timeout, durable=durable, reference=reference
            ),
        )

    def attempts(
        self,
        method: str,
        *,
        cost: int = 1,
        priority: int = 0,
        timeout: float | None = None,
        durable: bool = False,
        reference: str = "",
    ) -> Iterator[Attempt]:
        """Yield calls as `call` returns them, another after each refused nonce, until one is not refused.

        The body says that the nonce was refused by raising InvalidNonceError, which is kept from the caller while an
        attempt is left. Any other error ends the attempts: only a refused nonce is known not to have been executed.
        The timeout is that of each attempt; the back-off after an attempt's own refusal is not charged to the next.

        Raises on leaving:
            InvalidNonceError: no attempt is left; the hint is the diagnosis, if the key was closed.
        """
        passage = self._passage(
            method, cost, priority, timeout, durable=durable, reference=reference
        )
        again = True
        while again:
            attempt = Attempt(self.store, self.key, passage)
            yield attempt
            again = attempt.again
            passage = passage._replace(
                attempt=passage.attempt + 1, excused=attempt.excused
            )

    def _passage(
        self,
        method: str,
        cost: int,
        priority: int,
        timeout: float | None,
        *,
        durable: bool,
        reference: str,
    ) -> Passage:
        return Passage(
            method=check_method(method),
            cost=whole_argument("cost", cost, least=0, most=_MOST),
            priority=whole_argument("priority", priority, least=-_MOST, most=_MOST),
            timeout=self._timeout
            if timeout is None
            else seconds_argument("timeout", timeout),
            hold=self._hold,
            durable=durable,
            wanted=self._wanted,
            recovery=self._recovery,
            reference=check_reference(reference) if reference else "",
        )


class Attempt(Call):
    """A call that may be followed by another if its nonce is refused.

    Attributes:
        again: after the exit, whether another attempt follows.
        excused: the end, by the wall clock in ns, of the back-off that the next one is not charged for.
    """

    again = False
    excused = 0

    if TYPE_CHECKING:
        # Of a Call's exit a type checker knows that it lets every error through; not so of an attempt's.
        def __exit__(self, *error: object) -> bool: ...
        async def __aexit__(self, *error: object) -> bool: ...

    async def _exit(self, error: BaseException | None) -> bool:
        self._check_process()
        outcome = self._verdict(error)
        state = await self._end(outcome)
        if outcome != "invalid_nonce":
            return False
        most = self._passage.recovery.attempts
        if state is not None:
            most, self.excused = state.most_attempts, state.not_before
            self.again = not state.closed and self._passage.attempt < most
        refused = isinstance(error, InvalidNonceError)
        if refused and not self.again:
            raise InvalidNonceError(
                f"{self.method} of key {self.key}: nonce refused, "
                f"attempt {self._passage.attempt} of {most}",
                state.diagnosis if state is not None else "",
            ) from error
        return refused
