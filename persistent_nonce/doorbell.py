"""What wakes the next call when the one ahead of it ends, in whatever process.

A socket in Linux's abstract namespace (unix(7)) that has the waiting call's id for its name: it lies in no directory
and is gone with its process. It is a hint and no more: whoever cannot be rung for, from another network namespace, or
where there are no such sockets, looks at the state as often as if there were no bell.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from persistent_nonce import rules
from persistent_nonce.state import KeyState

__all__ = ["Doorbell", "ring"]

_NAME: Final = "\0persistent_nonce:"

#: select(2) takes no greater number of a file.
_SELECTABLE: Final = 1024


class Doorbell:
    """What ends the pauses of one call on a thread early. Nothing is opened before the first pause.

    Args:
        id: tells the call's id.
    """

    def __init__(self, id: Callable[[], str]) -> None:
        self._id = id
        self._bell: socket.socket | None = None
        self._opened = self._rung = False

    def wait(self, seconds: float) -> bool:
        """Wait for `seconds`, or until it is rung; return whether it was.

        Who was rung for in vain does not listen for one pause: anybody on the machine may ring.
        """
        if not self._opened:
            self._open()
        bell = None if self._rung else self._bell
        self._rung = False
        if bell is None or bell.fileno() >= _SELECTABLE:
            select.select((), (), (), seconds)
            return False
        # Not the socket's own timeout, which is rounded up to a millisecond.
        if select.select((bell,), (), (), seconds)[0]:
            self._rung = True
            with suppress(OSError):
                bell.recv(1)
        return self._rung

    def _open(self) -> None:
        self._opened = True
        with suppress(OSError):
            self._bell = _socket()
            self._bell.bind(_NAME + self._id())

    def close(self) -> None:
        """Take the bell down."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()


def ring(state: KeyState) -> KeyState:
    """Wake the call that is next in `state`, if nothing runs; return `state`."""
    first = rules.head(state) if state.running is None else None
    if first is not None:
        # An id is what another process has stored.
        with suppress(OSError, ValueError), _socket() as sender:
            sender.sendto(b"!", _NAME + first.id)
    return state


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
