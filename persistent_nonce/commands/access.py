"""How a command gets at what it is given: a database to read or to write, and one of its keys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from persistent_nonce.errors import ConfigurationError, StoreCorruptError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores import open_store, place
from persistent_nonce.stores.permissions import check_name, is_shared
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.rows import is_fingerprint
from persistent_nonce.stores.sqlite import SQLiteStore

__all__ = ["find_key", "open_reader", "open_writer"]

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
    if path is None:
        return open_store()
    return SQLiteStore(path, shared=is_shared(path))


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
    whole = is_fingerprint(given.lower())
    with closing(open_reader(path)) as reader:
        if new and whole and not os.path.exists(reader.path):
            return given.lower()
        labels = {key: _label(reader, key) for key in reader.keys()}  # noqa: SIM118 - no mapping
    found = _meant(given, labels)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(
            f"more than one key is meant: {_list(found, labels)}",
            "give more of its digits",
        )
    if new and whole:
        return given.lower()
    if given.strip() and fingerprint(given) in labels:
        raise ConfigurationError(
            "that is an API key itself, and others can see the command line",
            f"name it by its fingerprint, {fingerprint(given)}",
        )
    known = f"the keys are {_list(labels, labels)}" if labels else "it has no keys yet"
    raise ConfigurationError(
        f"no such key in {reader.path}; {known}",
        "name a key by its fingerprint, the beginning of it, or its label",
    )


def _label(reader: Reader, key: str) -> str:
    try:
        return reader.read(key).label
    except StoreCorruptError:
        return ""  # one damaged key is no reason to keep from the others


def _meant(given: str, labels: Mapping[str, str]) -> list[str]:
    if given.lower() in labels:
        return [given.lower()]
    if not given.strip():
        return []
    return [
        key
        for key, label in labels.items()
        if label == given or key.startswith(given.lower())
    ]


def _list(keys: Iterable[str], labels: Mapping[str, str]) -> str:
    names = [f"{key} {labels[key]!r}" if labels[key] else key for key in keys]
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
