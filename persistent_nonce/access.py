"""How a command gets at what it is given: a database to read or to write, and one of its keys."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from persistent_nonce.errors import ConfigurationError, StoreError
from persistent_nonce.state import KeyState, fingerprint
from persistent_nonce.stores import open_store, place
from persistent_nonce.stores.permissions import check_group, check_name
from persistent_nonce.stores.reader import Reader

if TYPE_CHECKING:
    from persistent_nonce.stores.sqlite import SQLiteStore

__all__ = ["find_key", "is_shared", "open_reader", "open_writer"]

_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")

#: The most candidates that an error lists.
_LISTED: Final = 20


def open_reader(path: Path | None) -> Reader:
    """Return a reader of the database `path`, or of the default one; nothing is created, or locked.

    A link is followed: read beside it, the database would seem to have no `-wal`, and what is newest would be missed.
    """
    path = place.default_path() if path is None else path
    check_name(path)
    return Reader(Path(os.path.realpath(path)))


def open_writer(path: Path | None) -> SQLiteStore:
    """Open the database `path`, or the default one, to change it; whether its directory is shared decides its modes."""
    from persistent_nonce.stores.sqlite import SQLiteStore

    if path is None:
        return open_store()
    return SQLiteStore(path, shared=is_shared(path))


def is_shared(path: Path) -> bool:
    """Tell whether the directory of the database `path` is one that a group shares."""
    try:
        check_group(path.parent, os.stat(path.parent))
    except (OSError, StoreError):
        return False
    return True


def find_key(path: Path | None, given: str, *, new: bool = False) -> str:
    """Return the fingerprint that `given` means: a fingerprint, a unique beginning of one, or a label.

    What was given is never repeated in an error, since it may be an API key (I11).

    Args:
        path: the database, None for the default one.
        given: what the user wrote.
        new: a whole fingerprint may be one that the store has never seen.

    Raises:
        ConfigurationError: no key, or more than one, is meant.
        StoreError: the database cannot be read.
    """
    reader = open_reader(path)
    whole = _FINGERPRINT.fullmatch(given.lower())
    if new and whole and not reader.path.exists():
        return given.lower()
    states = [reader.read(key) for key in reader.keys()]  # noqa: SIM118 - no mapping
    found = [state for state in states if _means(given, state)]
    exact = [state for state in found if state.key == given.lower()]
    found = exact or found
    if len(found) == 1:
        return found[0].key
    if found:
        raise ConfigurationError(
            f"more than one key is meant: {_list(found)}", "give more of its digits"
        )
    if new and whole:
        return given.lower()
    if given.strip() and fingerprint(given) in [state.key for state in states]:
        raise ConfigurationError(
            "that is an API key itself, and others can see the command line",
            f"name it by its fingerprint, {fingerprint(given)}",
        )
    known = f"the keys are {_list(states)}" if states else "it has no keys yet"
    raise ConfigurationError(
        f"no such key in {reader.path}; {known}",
        "name a key by its fingerprint, the beginning of it, or its label",
    )


def _means(given: str, state: KeyState) -> bool:
    if not given.strip():
        return False
    return given == state.label or state.key.startswith(given.lower())


def _list(states: list[KeyState]) -> str:
    names = [f"{s.key} {s.label!r}" if s.label else s.key for s in states[:_LISTED]]
    more = len(states) - _LISTED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
