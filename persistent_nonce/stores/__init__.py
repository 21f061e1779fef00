"""Stores: where the states of keys are kept."""

from __future__ import annotations

from persistent_nonce.stores import place
from persistent_nonce.stores.permissions import is_shared
from persistent_nonce.stores.sqlite import SQLiteStore

__all__ = ["open_store"]


def open_store() -> SQLiteStore:
    """Open the default place of this user on this machine, and make it at the first time.

    That is the file named by PERSISTENT_NONCE_DB, which a group shares if it shares the directory, else one in the
    user's state directory.

    Raises:
        ConfigurationError: PERSISTENT_NONCE_DB cannot be used.
        StoreError: it cannot be opened, or is not a place where state outlives a redeploy.
    """
    path = place.default_path()
    implicit = place.chosen_path() is None
    place.check_filesystem(path, implicit=implicit, trust=False)
    shared = not implicit and is_shared(path)
    path = place.prepare(path, shared=shared, create=implicit)
    return SQLiteStore(path, shared=shared)
