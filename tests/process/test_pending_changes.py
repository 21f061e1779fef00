"""What could not be stored is tried again with each change of any key, and those have to come through all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.clock import Now
from persistent_nonce.state import Changed, KeyState
from tests.support import databases
from tests.support.workers import KEY

path = databases.path


def _too_great(state: KeyState, _: Now) -> Changed:
    return Changed(state._replace(tat=2**63))


def test_a_change_that_can_never_be_stored(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key whose change SQLite has no number for holds up neither itself nor another key, nor the end (I9).

    Found by review: every change of every key was stored, and its caller was told that it was not.
    """
    with SQLiteStore(path) as store:
        one, other = NonceProvider(store, KEY), NonceProvider(store, "another key")
        store._pending.append((one.key, _too_great))
        taken = [one.next(), *one.reserve(2), other.next(), *other.reserve(2)]
        assert len(store._pending) == 1
        assert one.last == taken[2]
        assert other.last == taken[5]
    assert "could not close" not in caplog.text
