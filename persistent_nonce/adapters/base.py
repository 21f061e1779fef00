"""What the drop-in clients have in common: the gates of their keys, and how a call passes one."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from persistent_nonce import kraken
from persistent_nonce.adapters.sending import Sending
from persistent_nonce.adapters.unsent import unsent
from persistent_nonce.arguments import object_argument, seconds_argument
from persistent_nonce.errors import CallError, NonceRangeError, StoreError
from persistent_nonce.gate import Attempt, CallGate
from persistent_nonce.state import Recovery, check_unit
from persistent_nonce.steps import arun, do
from persistent_nonce.stores import open_store
from persistent_nonce.stores.base import Store

__all__ = ["WHOLE", "Gates"]

T = TypeVar("T")

#: How many times a client's own time limit the whole reply may take: each byte restarts that.
WHOLE: Final = 2.0

#: Seconds that a call may be held, at least; it must outlast the whole reply.
_HOLD: Final = 300.0

#: Seconds to wait for the turn of a question that nobody asked for, and for its reply.
_BRIEF: Final = 5.0

#: What says that a call has had no turn, so that nothing was sent.
_UNSENT: Final = (CallError, StoreError, NonceRangeError)

_mutex = threading.RLock()  # a signal handler may call while its thread opens
_shared: list[Store] = []


def _renew() -> None:
    """Have a mutex of its own in a forked child: a thread that does not exist there may hold the parent's."""
    global _mutex  # noqa: PLW0603 - of the process
    _mutex = threading.RLock()


os.register_at_fork(after_in_child=_renew)


def _default_store() -> Store:
    """Return the store in the default place, opened once in a process."""
    with _mutex:
        if not _shared:
            _shared.append(open_store())
        return _shared[0]


class Gates:
    """The gates of a client's keys, found at each private call, so that a client can be given another key.

    Args:
        family: the client's error that its users take for one of a call that was not sent.
        store: where the state is kept; None is the default place, opened at the first private call.
        tier, unit, min_interval, recovery: as of the client.
        gate_timeout: seconds a call may wait for its turn.
        whole: seconds that a whole reply may take, unless a call is given more.
        native: the unit in which the client counts by itself, for a key that is new here: it may have been used.

    Raises:
        ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        family: type[Exception],
        *,
        store: Store | None,
        tier: str | None,
        unit: str | None,
        min_interval: float | None,
        gate_timeout: float,
        recovery: Recovery | None,
        whole: float,
        native: str,
    ) -> None:
        object_argument("recovery", recovery, Recovery, "a Recovery, or leave it out")
        if min_interval is not None:
            seconds_argument("min_interval", min_interval)
        self._family = family
        self._store = store
        hold = max(_HOLD, 2 * whole)
        self._longest = hold / 2  # whatever time limit a single call is given
        self._make = partial(
            CallGate,
            min_interval=min_interval,
            rate=None if tier is None else kraken.rate(tier),
            default_rate=kraken.rate("starter"),
            unit=None if unit is None else check_unit(unit),
            default_unit=native,
            timeout=seconds_argument("gate_timeout", gate_timeout),
            hold_timeout=hold,
            recovery=recovery,
        )
        self._last: tuple[str, CallGate] | None = None

    def of(self, key: str) -> CallGate:
        """Return the gate of an API key.

        Raises:
            ConfigurationError: the key is empty, or PERSISTENT_NONCE_DB cannot be used.
            StoreError: the default store cannot be opened; an error of the client's family too.
        """
        last = self._last
        if last is None or last[0] != key:
            try:
                store = _default_store() if self._store is None else self._store
            except StoreError as error:
                raise unsent(error, self._family) from error
            last = self._last = (key, self._make(store, key))
        return last[1]

    async def aof(self, key: str) -> CallGate:
        """Return the same without blocking the running loop, as opening the default store would."""
        if self._store is not None or _shared:
            return self.of(key)

        async def find() -> CallGate:
            return await do(partial(self.of, key))

        return await arun(find())

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}  # a copy finds its gates in the same store

    def passes(
        self,
        gate: CallGate,
        method: str,
        data: Mapping[str, Any],
        send: Callable[[Sending[T]], T],
        *,
        brief: bool = False,
    ) -> Sending[T]:
        """Send a call of `method` when it is its turn, again if its nonce is refused, and return it.

        Args:
            data: of the call, without its nonce.
            send: has the client sign it and send it.
            brief: try once, and wait for a short time.

        Raises:
            CallError, StoreError, NonceRangeError: it was not sent; an error of the client's family too.
            ConfigurationError: it was not sent, since a setting contradicts what is stored or cannot be used.
            Exception: as `send` raises, other than of a refused nonce.
        """
        last: Sending[T] | None = None
        for attempt in _attempts(gate, method, data, brief=brief):
            with ExitStack() as turn:
                try:
                    call = turn.enter_context(attempt)
                except _UNSENT as error:
                    if last is None:
                        raise unsent(error, self._family) from error
                    return last  # the refusal in hand says more
                with Sending[T](call, self._limit(brief=brief), self._family) as last:
                    last.returned(send(last))
        assert last is not None  # noqa: S101 - there is a first attempt
        return last

    async def apasses(
        self,
        gate: CallGate,
        method: str,
        data: Mapping[str, Any],
        send: Callable[[Sending[T]], Awaitable[T]],
        *,
        brief: bool = False,
    ) -> Sending[T]:
        """Do the same on an event loop."""
        last: Sending[T] | None = None
        for attempt in _attempts(gate, method, data, brief=brief):
            async with AsyncExitStack() as turn:
                try:
                    call = await turn.enter_async_context(attempt)
                except _UNSENT as error:
                    if last is None:
                        raise unsent(error, self._family) from error
                    return last
                with Sending[T](call, self._limit(brief=brief), self._family) as last:
                    last.returned(await send(last))
        assert last is not None  # noqa: S101 - there is a first attempt
        return last

    def _limit(self, *, brief: bool) -> float:
        return WHOLE * _BRIEF if brief else self._longest


def _attempts(
    gate: CallGate, method: str, data: Mapping[str, Any], *, brief: bool
) -> Iterator[Attempt]:
    attempts = gate.attempts(
        method,
        timeout=_BRIEF if brief else None,
        cost=kraken.cost(method),
        priority=kraken.priority(method),
        durable=kraken.changes(method),
        reference=kraken.reference(method, data),
    )
    return islice(attempts, 1 if brief else None)
