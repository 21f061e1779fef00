"""One passage through a gate: wait for the turn, hold it for one call, say how the call ended.

How each guarantee is kept here, numbered as in the README:

    I5  the call's id is made before anything is stored, so that a passage interrupted anywhere
        can be taken back, or ended, without knowing how far it came
"""

from __future__ import annotations

import logging
import os
from functools import partial
from types import TracebackType
from typing import Final, Self

from persistent_nonce import recovery, rules
from persistent_nonce.arguments import seconds_argument
from persistent_nonce.clock import SECOND, nanoseconds
from persistent_nonce.doorbell import Doorbell, ring
from persistent_nonce.errors import (
    ConfigurationError,
    ForkedCallError,
    InvalidNonceError,
    NestedCallError,
    StoreError,
    StoreTimeoutError,
)
from persistent_nonce.passage import Entrance, Passage, check_turn
from persistent_nonce.room import meet, tell
from persistent_nonce.state import BackOff, Change, KeyState, Outcome, Running
from persistent_nonce.steps import Bell, arun, do, identity, run
from persistent_nonce.stores.base import Session, Store

__all__ = ["Call"]

_LOG: Final = logging.getLogger("persistent_nonce")

#: What the body of a call may say of its end.
_ENDS: Final = ("ok", "error", "invalid_nonce", "unknown", "not_sent")

#: How many signs of the exchange's words are kept.
_SAID: Final = 200

#: The Unix time at which nanoseconds no longer fit into a column: in the year 2262.
_LAST_TIME: Final = 2**63 // SECOND


class Call:
    """A call of one key, to be used once: `with` on a thread, `async with` on an event loop.

    Entering waits for the turn; leaving ends the call and records how. A body that ends well is recorded as "ok", one
    that raises InvalidNonceError as a refused nonce, any other error as "unknown": it may have been executed. The
    body may know better and say so with `settle` or `not_sent`.
    """

    #: Whether this call's success ended a row of refused nonces; known after its end.
    healed = False

    _id = ""  # for the finalizer of a call that was interrupted while it was made

    def __init__(self, store: Store, key: str, passage: Passage) -> None:
        self.key = key
        self.method = passage.method
        self._name = f"{passage.method} of key {key}"
        self._store = store
        self._passage = passage
        self._session: Session | None = None
        self._caller = (key, 0, 0)
        self._bell: Bell | None = None
        self._running: Running | None = None
        self._outcome: Outcome | None = None
        self._said = ""
        self._asked: BackOff | None = None
        self._pid = 0

    @property
    def nonce(self) -> int:
        """The call's nonce: to be used for one request, before the call ends."""
        return self._held().nonce

    @property
    def waited(self) -> float:
        """Seconds this call waited for its turn."""
        return self._held().waited / SECOND

    def settle(self, outcome: Outcome, said: str = "") -> None:
        """Say how the call ended, whatever the body raises.

        Args:
            outcome: "ok"; "error", the exchange said no and executed nothing; "invalid_nonce"; "unknown", it may have
                been executed; "not_sent".
            said: the exchange's error, for the record, of which 200 characters are kept.

        Raises:
            ConfigurationError: there is no such outcome, or the call has not begun.
            ForkedCallError: the call is another process's.
        """
        if outcome not in _ENDS:
            raise ConfigurationError(
                f"a call does not end as {outcome!r:.40}", f"one of {', '.join(_ENDS)}"
            )
        self._held()
        self._outcome, self._said = outcome, _kept(said)

    def back_off(
        self,
        reason: str,
        seconds: float,
        *,
        until: float = 0.0,
        most: float = 0.0,
        full: bool = False,
    ) -> None:
        """Let no call of the key start for a time once this one has ended, in no process: the exchange asks for it.

        Args:
            reason: what the exchange said; those that wait, or are not sent, are told.
            seconds: for how long.
            until: Unix time; if that is later, until then, but no longer than a day.
            most: when a back-off, whatever it was for, ended less than a minute ago, this one is twice as long as that,
                up to `most` seconds, if that is more.
            full: take the call counter for full at the end of it: the exchange does.

        Raises:
            ConfigurationError: an argument cannot be used, or the call has not begun.
            ForkedCallError: the call is another process's.
        """
        self._held()
        self._asked = BackOff(
            reason=_kept(reason),
            length=nanoseconds(seconds_argument("seconds", seconds)),
            until=nanoseconds(seconds_argument("until", until, most=_LAST_TIME)),
            most=nanoseconds(seconds_argument("most", most)),
            full=full,
        )

    def not_sent(self) -> None:
        """Say that no byte of the call left; its nonce is burnt."""
        self.settle("not_sent")

    def _held(self) -> Running:
        if self._running is None:
            raise ConfigurationError(
                "this call has not begun", "use it in a with block"
            )
        self._check_process()
        return self._running

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkedCallError(
                f"{self._name} belongs to process {self._pid}",
                "start a call of its own in the child",
            )

    # --- with and async with

    def __enter__(self) -> Self:
        self._begin()
        steps, bell = self._enter(), Doorbell(lambda: self._id)
        try:
            run(steps, rest=bell.wait)
        except BaseException:
            steps.close()  # an interrupt may have struck outside the steps
            self._drop("not_sent")
            raise
        finally:
            bell.close()
        return self

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            self._bell = Bell()
            await arun(self._enter(), self._bell)
        except BaseException:
            self._drop("not_sent")
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        steps = self._exit(error)
        try:
            return run(steps)
        finally:
            steps.close()
            self._drop(self._verdict(error))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            return await arun(self._exit(error))
        finally:
            self._drop(self._verdict(error))

    def __del__(self) -> None:
        # Dropped without its exit. Waiting here could be waiting for the very thread that collects it.
        self._drop("unknown")

    # --- the way in

    def _begin(self) -> None:
        if self._pid:
            raise NestedCallError(
                f"this call of {self.method} was entered before", "make a new one"
            )
        self._pid = os.getpid()
        self._caller = (self.key, *identity())

    async def _enter(self) -> None:
        try:
            session = await meet(self._store, self._bell)
            if self._caller in session.callers:
                raise NestedCallError(
                    f"a call of key {self.key} inside another one of the same caller",
                    "end the first call before the next, or use another key; drop one that was interrupted",
                )
            self._session = session
            session.callers.add(self._caller)
            self._id = session.new_id()
            session.live.add(self._id)
            entrance = Entrance(
                self._store, self.key, self._passage, session, self._id, bell=self._bell
            )
            self._running = await entrance.wait()
            check_turn(self._running, self._store.now(), self._name)
        except (GeneratorExit, StoreTimeoutError):
            # Nothing can be awaited any more; or it would be waited for as long again (I8).
            self._drop("not_sent")
            raise
        except BaseException:
            if self._pid == os.getpid():  # in a forked child it is the parent's call
                await self._leave()
            raise

    # --- the way out

    def _ending(self, outcome: Outcome) -> Change:
        """Return the change that ends this call; it may outlive the call, so it does not hold on to it."""
        if self._running is None:
            return partial(rules.leave, id=self._id)
        return partial(
            rules.finish,
            call=self._running,
            outcome=outcome,
            recovery=self._passage.recovery,
            asked=self._asked,
            said=self._said,
        )

    async def _leave(self) -> None:
        """Take the call back, however far it came."""
        if self._id:
            await self._end("not_sent")
        else:
            self._forget()

    async def _exit(self, error: BaseException | None) -> bool:
        self._check_process()
        await self._end(self._verdict(error))
        return False

    def _verdict(self, error: BaseException | None) -> Outcome:
        if self._outcome is not None:
            return self._outcome
        if error is None:
            return "ok"
        return "invalid_nonce" if isinstance(error, InvalidNonceError) else "unknown"

    async def _end(self, outcome: Outcome) -> KeyState | None:
        """End the call in the state; what cannot be stored now is stored by whoever can.

        Its reply is in the caller's hands: an error here would lose it.
        """
        ending = self._ending(outcome)
        state = None
        try:
            state = await do(lambda: ring(self._store.update(self.key, ending)))
        except StoreError as error:
            _LOG.warning("%s could not be ended yet: %s", self._name, error)
            self._store.later(self.key, ending)
        except BaseException:
            self._store.later(self.key, ending)  # ended twice does no harm
            raise
        finally:
            if self._bell is not None and self._session is not None:
                tell(state, self._bell, self._session, self.key)
            self._forget()
        running = self._running
        if state is not None and running is not None:
            self.healed = state.healed == running.id
            self._report(state, running, outcome)
        return state

    def _drop(self, outcome: Outcome) -> None:
        """End the call without waiting, unless it was ended; by whoever next can."""
        if not self._id or self._pid != os.getpid():
            return
        if self._session is not None:
            self._session.live.discard(self._id)  # a thread still on its way sees it
        self._store.later(self.key, self._ending(outcome))
        self._forget()

    def _forget(self) -> None:
        if self._session is not None:
            self._session.live.discard(self._id)
            self._session.callers.discard(self._caller)
        self._id = ""

    def _report(self, state: KeyState, running: Running, outcome: Outcome) -> None:
        """Log what the reply means for the whole key."""
        if outcome == "invalid_nonce":
            count = state.refusals
            _LOG.warning(
                "%s: nonce %d refused, %d in a row", self._name, running.nonce, count
            )
            if state.closed:
                _LOG.warning("key %s is closed: %s", self.key, state.diagnosis)
                return
            if state.jumped_at > running.nonce:
                _LOG.warning("key %s jumps to %d", self.key, state.jumped_at)
        elif self._asked is None:
            return
        left = recovery.rest(state, self._store.now(), 0)
        if not left:  # a longer one is not to be forgotten
            return
        _LOG.warning(
            "key %s backs off for %.1f s: %s", self.key, left / SECOND, state.reason
        )


def _kept(text: str) -> str:
    """Return what is kept of the exchange's words: JSON may hold half a character, which no file can."""
    if not isinstance(text, str):
        raise ConfigurationError(
            f"the exchange's words are {text!r:.40}", "pass them as a string"
        )
    return text[:_SAID].encode(errors="replace").decode()
