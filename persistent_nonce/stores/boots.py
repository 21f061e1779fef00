"""The name of the boot where the system tells none: one in the database, which all who live at once have in common.

Whoever lives is of the same boot. So an opener takes a new name, and wakes every row (I4), only if it is alone; and as
it may have been alone because nobody could see the others, all take at each transaction the name that stands there
then. Were an old one used on, each would take the other's rows for another boot's, and end the calls in them (I5).
"""

from __future__ import annotations

from persistent_nonce.clock import Clock, Now
from persistent_nonce.stores.presence import Presence
from persistent_nonce.stores.writer import Writer

__all__ = ["adopt"]


def adopt(writer: Writer, presence: Presence, clock: Clock) -> str:
    """Return the boot's name, adopted under the store's lock: a new one if nobody else lives, with a file or without.

    Raises:
        StoreUnavailableError: nobody can tell, and a call may be in flight.
    """
    now = Now(clock.wall(), clock.mono(), "")
    lives = presence.sweep(writer.names_session)
    lives = lives or presence.is_named(writer.states(), now)
    return writer.adopt_boot(alone=not lives)
