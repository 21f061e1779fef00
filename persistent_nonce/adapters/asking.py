"""What a drop-in client offers beyond its own calls: its key's calls in doubt, and what the exchange says of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

from persistent_nonce.adapters.account import Account, Answer
from persistent_nonce.adapters.sending import Sending
from persistent_nonce.doubt import Doubt
from persistent_nonce.errors import ExchangeError
from persistent_nonce.findings import Finding
from persistent_nonce.gate import CallGate
from persistent_nonce.steps import arun, do, run, until

__all__ = ["Asking", "AsyncAsking", "time_of"]


def time_of(reply: Any) -> float:
    """Return the Unix time in the exchange's reply to Time.

    Raises:
        ExchangeError: there is none.
    """
    try:
        return int(reply["result"]["unixtime"])
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ExchangeError(
            "Time was answered without a time", "try again later"
        ) from error


class Asking(ABC):
    """A client whose calls block."""

    @abstractmethod
    def _find_gate(self) -> CallGate:
        """Return the gate of the client's key."""

    @abstractmethod
    def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        """Put a question, a private call, through the gate."""

    @abstractmethod
    def _ask_time(self) -> float:
        """Return the exchange's Unix time."""

    def _account(self, gate: CallGate, *, brief: bool = False) -> Account:
        async def ask(method: str, data: dict[str, Any]) -> Answer:
            put = partial(self._put, gate, method, data, brief=brief)
            return _answer(await do(put))

        async def ask_time() -> float:
            return await do(self._ask_time)

        return Account(gate.store, gate.key, ask, ask_time)

    def _after(self, sending: Sending[Any], gate: CallGate) -> None:
        """Verify the key once a refused nonce is healed."""
        if sending.call.healed:
            run(self._account(gate, brief=True).verify_after_refusal())

    def in_doubt(self) -> list[Doubt]:
        """Return the calls of the key of which it is open whether the exchange executed them, oldest first.

        Raises:
            StoreError: the record cannot be read.
        """
        return run(self._account(self._find_gate()).in_doubt())

    def reconcile(self) -> list[Doubt]:
        """Look the calls in doubt up at the exchange and return them, with what became of those that are settled.

        An order is looked up by its `cl_ord_id` or `userref`. One that is nowhere is settled as not executed two
        minutes after the call ended, or was found here to have ended; until then, and where it cannot be told, a call
        stays in doubt. Nothing is ever sent again.

        Raises:
            ExchangeError: the exchange does not tell.
            Exception: as the client raises; what was settled before stays so.
        """
        return run(self._account(self._find_gate()).reconcile())

    def verify(self) -> list[Finding]:
        """Ask the exchange what it knows of the key, by GetApiKeyInfo, and return what was found, in words.

        A floor that is higher than ours is followed, unless it is in a finer unit: then the key is closed. What is
        wrong stays in the state as its diagnosis.

        Raises:
            ExchangeError: the exchange does not tell.
            Exception: as the client raises.
        """
        return run(self._account(self._find_gate()).verify())


class AsyncAsking(ABC):
    """A client on an event loop: the same, awaited."""

    @abstractmethod
    async def _find_gate(self) -> CallGate:
        """Return the gate of the client's key."""

    @abstractmethod
    async def _put(
        self, gate: CallGate, method: str, data: dict[str, Any], *, brief: bool
    ) -> Sending[Any]:
        """Put a question, a private call, through the gate."""

    @abstractmethod
    async def _ask_time(self) -> float:
        """Return the exchange's Unix time."""

    def _account(self, gate: CallGate, *, brief: bool = False) -> Account:
        async def ask(method: str, data: dict[str, Any]) -> Answer:
            return _answer(await until(self._put(gate, method, data, brief=brief)))

        async def ask_time() -> float:
            return await until(self._ask_time())

        return Account(gate.store, gate.key, ask, ask_time)

    async def _after(self, sending: Sending[Any], gate: CallGate) -> None:
        """Verify the key once a refused nonce is healed."""
        if sending.call.healed:
            await arun(self._account(gate, brief=True).verify_after_refusal())

    async def in_doubt(self) -> list[Doubt]:
        """Return the calls of the key in doubt, oldest first; see `Asking`."""
        return await arun(self._account(await self._find_gate()).in_doubt())

    async def reconcile(self) -> list[Doubt]:
        """Look the calls in doubt up at the exchange; see `Asking`."""
        return await arun(self._account(await self._find_gate()).reconcile())

    async def verify(self) -> list[Finding]:
        """Ask the exchange what it knows of the key; see `Asking`."""
        return await arun(self._account(await self._find_gate()).verify())


def _answer(sending: Sending[Any]) -> Answer:
    sending.result()  # raises what the client made of a refused nonce
    return Answer(sending.reply, sending.call.nonce)
