"""This process's sessions in one store: begun at the first call, and anew if the file of one was removed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeAlias

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.rules import wake
from persistent_nonce.state import CallRecord, Changed, KeyState, Running
from persistent_nonce.stores.place import make_directory
from persistent_nonce.stores.sessions import (
    Fate,
    FileSession,
    directory_of,
    fate,
    pid_of,
    sweep,
)

__all__ = ["Presence"]

_LOG: Final = logging.getLogger("persistent_nonce")

#: Whether a row of the store still speaks of a session.
Named: TypeAlias = Callable[[str], bool]


class Presence:
    """The sessions of this process; those whose file was removed stay as long as their calls may go on.

    Args:
        path: the database; the sessions' files lie in `<path>.sessions`.
        shared: for the modes of the files.
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._directory = directory_of(path)
        self._shared = shared
        self._sessions: list[FileSession] = []

    def current(self) -> FileSession | None:
        """Return the session that others can see, if there is one."""
        session = self._sessions[-1] if self._sessions else None
        return session if session is not None and session.intact() else None

    def begin(self, named: Named) -> FileSession:
        """Begin a session, under the store's lock, unless another thread was first."""
        session = self.current()
        if session is None:
            if self._sessions:
                _LOG.warning(
                    "the file of session %s was removed", self._sessions[-1].name
                )
            make_directory(self._directory, shared=self._shared)
            self.sweep(named)
            session = FileSession(self._directory, shared=self._shared)
            self._sessions.append(session)
        return session

    def sweep(self, named: Named) -> bool:
        """Remove what ended sessions left, under the store's lock; return whether one lives."""
        return sweep(self._directory, named)

    def is_named(
        self,
        states: Iterable[KeyState],
        now: Now,
        calls: Iterable[CallRecord] = (),
    ) -> bool:
        """Return whether a session lives that a row, or the record of a call in flight, names (I5).

        It may have no file any more, so that no sweep finds it. Of another boot nobody lives; where the system does not
        tell its boot, all are asked.

        Raises:
            StoreUnavailableError: nobody can tell here, and a call may be in flight.
        """
        states = [
            state
            for state in states
            if not (state.boot and now.boot) or state.boot == now.boot
        ]
        names = {record.session for record in calls if record.outcome == "in_flight"}
        names |= {call.session for state in states for call in state.queue}
        running = [state.running for state in states if state.running is not None]
        found = {
            name: self._fate(name)
            for name in names.union(call.session for call in running)
        }
        if "lives" in found.values():
            return True
        for call in running:
            if found[call.session] == "unknown":
                _check_over(call, now)
        return False

    def wake(self, state: KeyState, now: Now) -> Changed:
        """Return `state` as it enters another boot, in which nobody lives whom it names.

        Raises:
            StoreUnavailableError: somebody does, or nobody can tell and a call may be in flight: not all processes of
                the store are told the same boot (I5).
        """
        names = {call.session for call in state.queue}
        if state.running is not None:
            names.add(state.running.session)
        own = {session.name for session in self._sessions}
        found = {name: self._fate(name) for name in names - own}
        for name, became in found.items():
            if became == "lives":
                raise StoreUnavailableError(
                    f"process {pid_of(name)} waits for a call of key {state.key} or is in one, "
                    "and takes this for another boot; no nonce was issued",
                    "let all programs of this store read the kernel's own /proc/sys/kernel/random/boot_id, or none",
                )
        if state.running is not None and found.get(state.running.session) == "unknown":
            _check_over(state.running, now)
        return wake(state, now)

    def _fate(self, name: str) -> Fate:
        try:
            return fate(self._directory, name)
        except OSError:
            return "unknown"

    def in_flight(self) -> bool:
        """Whether a call of these sessions waits or runs."""
        return any(session.live for session in self._sessions)

    def end(self, named: Named) -> None:
        """End the sessions, under the store's lock; one with a call in flight lives as long as the process (I5)."""
        idle = [session for session in self._sessions if not session.live]
        try:
            for session in idle:
                session.close(named=named(session.name))
        finally:
            for session in idle:
                session.abandon()

    def abandon(self) -> None:
        """Let go of every file, in a forked child, whose parent would seem to live."""
        while self._sessions:
            self._sessions.pop().abandon()


def _check_over(call: Running, now: Now) -> None:
    """Raise if a call may be in flight of which nobody can tell."""
    # One that began later is another boot's after all, and one past its time may be overtaken.
    if not call.since <= now.mono <= call.until:
        return
    left = (call.until - now.mono) / SECOND
    raise StoreUnavailableError(
        f"{call.method} of process {pid_of(call.session)} may be in flight: its session's file was removed or "
        "replaced, and nobody can tell here whether it lives; nothing was changed, no nonce was issued",
        f"end that process, or wait for {left:.0f} s: then its call counts as ended",
    )
