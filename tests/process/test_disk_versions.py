"""Programs of an older version, while a newer one migrates their database."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce.errors import StoreUnavailableError, StoreVersionError
from persistent_nonce.stores.rebuild import rebuild
from tests.support import databases
from tests.support.disk_actor import Crew
from tests.support.disk_ledger import KEYS, findings
from tests.support.disk_versions import migrate, use_newer
from tests.support.processes import Children

path, children = databases.path, databases.children


def test_migration_under_older_programs(path: Path, children: Children) -> None:
    """Whoever holds, takes or comes with the older version is told; the newer is above all (I1, I9; fault A38)."""
    with Crew(path) as crew:
        holder, waiter, taker = crew.open(), crew.open(), crew.open()
        holder.begin()
        assert taker.take(3) == []
        assert holder.enter() == []
        waiter.wait()
        children.call(migrate, path).result()
        told = [
            *waiter.answer(),
            *holder.leave(),
            *holder.enter(),
            *taker.take(),
            *taker.take(),
            *taker.call(),
            *crew.open().refused,
        ]
        assert len(told) >= 7
        for error in told:
            assert error.startswith("StoreVersionError: "), told
            assert "newer version" in error or "upgrade persistent_nonce" in error
        assert any("schema 2" in found for found in findings(path))
        before = path.read_bytes()
        with pytest.raises(StoreUnavailableError, match="still makes calls"):
            rebuild(path, shared=False)
        crew.dismiss()
        with pytest.raises(StoreVersionError):
            rebuild(path, shared=False)
        assert path.read_bytes() == before
        for key in KEYS:
            nonce = children.call(use_newer, path, key).result()
            crew.ledger.note(key, nonce)
