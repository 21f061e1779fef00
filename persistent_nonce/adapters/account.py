"""What can be asked of the exchange about a key's own calls, through whatever client the key has.

Each question is a procedure (see `steps`), for clients on a thread and on an event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from persistent_nonce import doubt, kraken, records, replies, rules, verification
from persistent_nonce.adapters.orders import (
    Sought,
    closed_orders,
    open_orders,
    opened,
)
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.doubt import Doubt
from persistent_nonce.errors import ExchangeError
from persistent_nonce.findings import Finding
from persistent_nonce.state import CallRecord, Change, Changed, KeyState, Outcome
from persistent_nonce.steps import Steps, do
from persistent_nonce.stores.base import Store
from persistent_nonce.verification import KeyInfo

__all__ = ["Account", "Answer"]

_LOG: Final = logging.getLogger("persistent_nonce")

#: More call records than a key has.
_ALL: Final = 2**31

#: The Unix time of the year 9999, which is the last that can be written as a date.
_LAST_DATE: Final = 253_370_764_800

_AGAIN: Final = "try again later"

#: The method whose doubts can be looked up.
_PLACES: Final = "AddOrder"

#: The method that tells of the key itself.
_ABOUT_KEY: Final = "GetApiKeyInfo"


class Answer(NamedTuple):
    """What came of a question.

    Attributes:
        reply: as the exchange gave it.
        nonce: of the call; 0 if it had none.
    """

    reply: Any
    nonce: int


class Account:
    """The calls of one key, here and at the exchange.

    Args:
        store: where they are on record.
        key: the fingerprint of the key.
        ask: sends a private call of a method with its data through the key's gate.
        ask_time: returns the exchange's Unix time.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        ask: Callable[[str, dict[str, Any]], Steps[Answer]],
        ask_time: Callable[[], Steps[float]],
    ) -> None:
        self._store = store
        self._key = key
        self._ask = ask
        self._ask_time = ask_time

    # --- calls in doubt

    async def in_doubt(self) -> list[Doubt]:
        """Return the calls of which it is open whether the exchange executed them, oldest first.

        Raises:
            StoreError: the record cannot be read.
        """
        return [doubt.doubt_of(call) for call in await self._doubtful()]

    async def reconcile(self) -> list[Doubt]:
        """Look the calls in doubt up at the exchange and return them, with what became of those that are settled.

        A call that reads changed nothing. An order is looked up by its id among the open and the closed ones; if there
        is none, it is settled when it is too late for one, two minutes after the call ended; if its process died, after
        that was found here. What cannot be told stays in doubt. Nothing is ever sent again. It takes few calls: one for
        all open orders, and for the closed ones a page of 50 each, or one for each order where that is less.

        Raises:
            ExchangeError: the exchange does not tell.
            Exception: as the client raises; what was settled before stays so.
        """
        calls = await self._doubtful()
        settled = {
            call.id: await self._settle(call, "not_executed")
            for call in calls
            if not kraken.changes(call.method)
        }
        sought = [call for call in calls if await self._can_be_found(call)]
        if sought:
            settled |= await self._look_up(sought)
        return [doubt.doubt_of(settled.get(call.id, call)) for call in calls]

    async def _doubtful(self) -> list[CallRecord]:
        await self._prune()
        calls = filter(records.in_doubt, await self._calls())
        ended = [await self._ended(call) for call in calls]
        return sorted(ended, key=lambda call: call.nonce)

    async def _calls(self) -> list[CallRecord]:
        return await do(partial(self._store.calls, self._key, _ALL))

    async def _update(self, change: Change) -> None:
        await do(partial(self._store.update, self._key, change))

    async def _dead(self, name: str) -> frozenset[str]:
        """Return a session's name if it has ended."""
        session = await do(self._store.session)
        return await do(partial(session.dead, {name} - {session.name}))

    async def _prune(self) -> None:
        """Have the end of a call on record whose process is gone."""
        state = await do(partial(self._store.read, self._key))
        if state.running is None:
            return
        session = await do(self._store.session)
        dead = await self._dead(state.running.session)

        def change(state: KeyState, now: Now) -> Changed:
            state = rules.clamp(state, now)
            return rules.prune(state, now, dead, session.name, frozenset(session.live))

        await self._update(change)

    async def _ended(self, call: CallRecord) -> CallRecord:
        """Have on record that a call has ended by now, if its process is gone and nobody saw when."""
        if call.took is not None or await self._may_be_sent(call):
            return call
        ended = doubt.ended_by(call, self._store.now())
        return call if ended == call else await self._settle(ended, call.outcome)

    async def _can_be_found(self, call: CallRecord) -> bool:
        name, _ = doubt.split(call.reference)
        if call.method != _PLACES or not name:
            return False
        return not await self._may_be_sent(call)

    async def _look_up(self, calls: list[CallRecord]) -> dict[str, CallRecord]:
        """Settle the calls of which the orders at the exchange tell what became of them, and return these."""
        exchange = round(await self._ask_time() * SECOND)
        now = self._store.now()  # not before: the answer may have taken long
        sought = {
            call: Sought(
                *doubt.split(call.reference), doubt.sent_after(call, now, exchange)
            )
            for call in calls
        }
        found: dict[str, Any] = {}
        settled: dict[str, CallRecord] = {}
        # The open ones first: an order that is closed in between is found among the closed.
        for look_up in (open_orders, closed_orders):
            found |= await look_up(self._result, list(sought.values()))
            known = await self._calls()
            for call, one in list(sought.items()):
                outcome = self._conclude(call, opened(found, one), known, now)
                if outcome == "executed" or (outcome and look_up is closed_orders):
                    settled[call.id] = await self._settle(call, outcome)
                    del sought[call]
            if not sought:
                break
        return settled

    def _conclude(
        self, call: CallRecord, times: list[int], known: list[CallRecord], now: Now
    ) -> Outcome | None:
        others = len(doubt.rivals(call, known, now))
        if not doubt.remembered(call, known, now):
            others = max(others, len(times))
        return doubt.conclude(call, times, others, now)

    async def _may_be_sent(self, call: CallRecord) -> bool:
        """Whether nobody saw the end of the call, and its process still lives: it may only have been stopped."""
        if call.took is not None:
            return False
        session = await do(self._store.session)
        if call.session == session.name:
            return call.id in session.live
        return not await self._dead(call.session)

    async def _settle(self, call: CallRecord, outcome: Outcome) -> CallRecord:
        def change(state: KeyState, _: Now) -> Changed:
            return records.settled(state, call, outcome)

        await self._update(change)
        return call._replace(outcome=outcome)

    # --- the key itself

    async def verify(self) -> list[Finding]:
        """Ask the exchange what it knows of the key, and return what was found, in words.

        A floor that is higher than ours is followed, unless it is in a finer unit: then the key is closed. What is
        wrong stays in the state as its diagnosis.

        Raises:
            ExchangeError: the exchange does not tell.
            Exception: as the client raises.
        """
        return await self._verify(after_refusal=False)

    async def _verify(self, *, after_refusal: bool) -> list[Finding]:
        answer = await self._ask(_ABOUT_KEY, {})
        info = _read_info(_result(answer.reply, _ABOUT_KEY))
        calls = await self._calls()
        found: list[Finding] = []

        def change(state: KeyState, now: Now) -> Changed:
            found[:] = verification.compare(state, now, info, answer.nonce, calls)
            if after_refusal:
                found.append(verification.healed(state))
            return Changed(verification.conclude(state, now, info, found))

        await self._update(change)
        for finding in found:
            if finding.wrong:
                _LOG.warning(
                    "key %s, %s: %s; %s",
                    self._key,
                    finding.about,
                    finding.said,
                    finding.do,
                )
        return found

    async def verify_after_refusal(self) -> None:
        """Verify the key once a refused nonce is healed; the caller's reply is in hand, so nothing is raised."""
        try:
            await self._verify(after_refusal=True)
        except Exception as error:  # noqa: BLE001 - whatever the client raises
            _LOG.warning(
                "key %s could not be verified: %s", self._key, type(error).__name__
            )

    async def _result(self, method: str, data: dict[str, Any]) -> Any:
        answer = await self._ask(method, data)
        return _result(answer.reply, method)


def _result(reply: Any, method: str) -> Any:
    errors = reply.get("error") if isinstance(reply, Mapping) else None
    if not isinstance(errors, list) or not all(isinstance(e, str) for e in errors):
        raise ExchangeError(f"{method} was not answered in the exchange's form", _AGAIN)
    if replies.classify(errors).outcome != "ok":
        hint = "look at the key and its secret"
        if method != _ABOUT_KEY:  # for which a key needs no permission
            hint += "; it needs the permission to query its orders"
        raise ExchangeError(f"{method} was answered: {'; '.join(errors)}", hint)
    if "result" not in reply:
        raise ExchangeError(f"{method} was answered without a result", _AGAIN)
    return reply["result"]


def _read_info(result: Any) -> KeyInfo:
    try:
        nonce, window = int(result["nonce"]), int(result["nonceWindow"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ExchangeError(
            "GetApiKeyInfo was answered without a nonce", _AGAIN
        ) from error
    try:
        last_used: float | None = float(result["lastUsed"])
    except (KeyError, TypeError, ValueError):
        last_used = None
    if last_used is not None and not 0 < last_used < _LAST_DATE:
        last_used = None  # in another unit, or no number
    return KeyInfo(nonce, window, last_used)
