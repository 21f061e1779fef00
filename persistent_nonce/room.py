"""Where the tasks of one event loop wait for their turn at one key, so that one of them looks for all.

A loop moves all its tasks or none, so one that looks speaks for the others: it is the first of them in the queue, and
rings the bell of whoever has to do something. Two loops and two threads may stand still each on its own; each has
its own look at the state.

How each guarantee is kept here, numbered as in the README:

    I7  who comes to the room is put into the queue in that order
    I8  nobody waits for a bell beyond its own deadline; who looks no more has another one look
"""

from __future__ import annotations

import threading
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from persistent_nonce import rules
from persistent_nonce.candidate import Candidate, attempt_together
from persistent_nonce.errors import StoreTimeoutError
from persistent_nonce.state import KeyState
from persistent_nonce.steps import Bell, do, until
from persistent_nonce.stores.base import Session, Store

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

__all__ = ["Room", "meet", "tell"]

#: Calls that are put into the queue in one transaction, at most: it keeps other processes waiting.
_AT_ONCE: Final = 50

#: By loop, session and key. Only those in it keep a room: a loop that is thrown away takes its tasks with it.
_rooms: Final[WeakValueDictionary[tuple[int, str, str], Room]] = WeakValueDictionary()

#: By loop and the store's id: those who ask for a session.
_asked: Final[WeakKeyDictionary[AbstractEventLoop, dict[int, _Asking]]] = (
    WeakKeyDictionary()
)


class Room:
    """The waiting calls of one key, session and loop. But for `serve` and `settle`, all is done on the loop's thread.

    Attributes:
        state: the newest that one of them has seen.
        watch: who looks for all.
        inside: the call that began here last, of whose end the room is told; empty after that.
    """

    inside = ""

    def __init__(self) -> None:
        self.state = KeyState("")
        self.watch: Candidate | None = None
        self._guests: dict[str, Candidate] = {}
        # Worker threads take from it, so nothing in it may be compared by Python code.
        self._asking: list[Candidate] = []
        self._mutex = threading.Lock()

    @classmethod
    def of(cls, guest: Candidate) -> Room:
        """Return the room in which `guest` is to wait."""
        return _rooms.setdefault(_place(guest.bell, guest.session, guest.key), cls())

    def ask(self, guest: Candidate) -> None:
        """Have the transaction of `guest` made by whoever is served next."""
        guest.answer, guest.due = None, False
        self._asking.append(guest)

    def serve(self, guest: Candidate) -> KeyState:
        """Make the transaction of `guest`, with those of others who came before, and return what it led to.

        To be called in a worker thread.
        """
        while (answer := guest.answer) is None:
            with self._mutex:
                batch: list[Candidate] = []
                while guest.answer is None and len(batch) < _AT_ONCE:
                    try:
                        batch.append(self._asking.pop(0))
                    except IndexError:
                        break
                if batch:
                    attempt_together(batch)
                    self._share(batch[0].answer)
                elif guest.answer is None:
                    raise LookupError(guest.id)  # dropped: nobody waits for this
        # Read once: an error after the commit is told to those who have an answer too.
        if isinstance(answer, BaseException):
            raise _own(answer) from answer.__cause__
        return answer

    def _share(self, answer: KeyState | BaseException | None) -> None:
        """Tell those who ask by now too that the store is locked: they would wait as long again (I8)."""
        while isinstance(answer, StoreTimeoutError) and self._asking:
            with suppress(IndexError):  # the last one has left meanwhile
                self._asking.pop(0).answer = answer

    def settle(self) -> None:
        """Wait for the end of the transaction that is being made."""
        with self._mutex:
            pass

    def enter(self, guest: Candidate) -> None:
        """Let `guest`, who stands in the queue, wait."""
        self._guests[guest.id] = guest
        if self.watch is None:
            self._set_watch(guest)

    def leave(self, guest: Candidate) -> None:
        """Let `guest` go, wherever it stands; another one looks if it did."""
        guest.left = True
        with suppress(ValueError):
            self._asking.remove(guest)
        self._guests.pop(guest.id, None)
        if self.watch is guest:
            self._set_watch(self._first())

    def see(self, state: KeyState, by: Candidate | None = None) -> None:
        """Ring for those whom a new state concerns; `by` has seen it."""
        last, self.state = self.state, state
        if last is state or not self._guests:
            return
        waiting = {call.id for call in state.queue if not call.late}
        if state.running is not None:
            waiting.add(state.running.id)
        for guest in self._guests.values():
            guest.due = state.closed or guest.id not in waiting
            if guest.due or last.not_before != state.not_before:
                _ring(guest)
        first = self._first()
        if first is not self.watch or (first is not by and state.running is None):
            self._set_watch(first)

    def _first(self) -> Candidate | None:
        """Return who of them comes first in the queue; one that stands nowhere will see to that."""
        first = rules.head(self.state)
        if first is not None and first.id not in self._guests:
            mine = tuple(call for call in self.state.queue if call.id in self._guests)
            first = rules.head(self.state._replace(queue=mine))
        if first is None:
            return next(iter(self._guests.values()), None)
        return self._guests[first.id]

    def _set_watch(self, guest: Candidate | None) -> None:
        self.watch = guest
        if guest is not None:
            _ring(guest)


async def meet(store: Store, bell: Bell | None) -> Session:
    """Return this process's session; tasks that ask at once go on in that order (I7)."""
    if bell is None:
        return await do(store.session)
    asked = _asked.setdefault(bell.loop, {})
    asking = asked.get(id(store))
    # While others are on their way, what is known by now waits behind them.
    known = store.known_session() if asking is None else None
    if known is not None:
        return known
    find = _be_told
    if asking is None or asking.told.done():
        asking, find = _Asking(bell.loop), _ask_for_all
        asked[id(store)] = asking
    asking.tasks += 1
    try:
        return await find(asking, store)
    finally:
        asking.tasks -= 1
        if not asking.tasks and asked.get(id(store)) is asking:
            del asked[id(store)]


class _Asking:
    """Tasks of one loop of which the first asks for a session.

    Attributes:
        told: what came of it; None if nothing did that holds for all.
        tasks: how many of them have not gone on.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.told: Future[Session | BaseException | None] = loop.create_future()
        self.tasks = 0


async def _ask_for_all(asking: _Asking, store: Store) -> Session:
    found: Session | BaseException | None = None
    try:
        found = session = await do(store.session)
        return session
    except StoreTimeoutError as error:
        found = _own(error)
        raise
    except BaseException:
        # Cancelled, it has begun one all the same. Each for itself, the others would lose their order (I7).
        found = store.known_session()
        raise
    finally:
        try:  # noqa: SIM105 - suppress() is a call, and a signal may follow one
            asking.told.set_result(found)
        except RuntimeError:
            pass  # the loop was closed: nobody waits any more


async def _be_told(asking: _Asking, store: Store) -> Session:
    from asyncio import shield  # noqa: PLC0415 - who has no event loop need not load it

    # Shielded: who is cancelled takes it from nobody else.
    found = await until(shield(asking.told))
    if isinstance(found, BaseException):
        raise _own(found)  # asked once more, it would be waited for as long again (I8)
    return await do(store.session) if found is None else found


def tell(state: KeyState | None, bell: Bell, session: Session, key: str) -> None:
    """Show a room, if there is one, the state that a call of its loop has left; None is not known."""
    room = _rooms.get(_place(bell, session, key))
    if room is None:
        return
    room.inside = ""
    if state is not None:
        room.see(state)
    elif room.watch is not None:
        _ring(room.watch)


def _own(error: BaseException) -> BaseException:
    """Return a copy of an error that others are told too, or itself if its class cannot be copied."""
    try:
        return copy(error)
    except Exception:  # noqa: BLE001 - a store's own class may want any arguments
        return error


def _place(bell: Bell | None, session: Session, key: str) -> tuple[int, str, str]:
    return 0 if bell is None else id(bell.loop), session.name, key


def _ring(guest: Candidate) -> None:
    if guest.bell is not None:
        guest.bell.ring()
