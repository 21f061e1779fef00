"""This process's sessions in one store: begun at the first call, and anew if the file of one was removed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from persistent_nonce.stores.place import make_directory
from persistent_nonce.stores.sessions import FileSession, sweep

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
        self._directory = path.with_name(path.name + ".sessions")
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

    def end(self, named: Named) -> None:
        """End the sessions, under the store's lock."""
        for session in self._sessions:
            session.close(named=named(session.name))

    def abandon(self) -> None:
        """Let go of every file: after the end, or in a forked child, whose parent would seem to live."""
        while self._sessions:
            self._sessions.pop().abandon()
