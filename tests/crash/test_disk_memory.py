"""A program that remembers a row, and a database that went back to this very row: it must not go on from there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from persistent_nonce.stores.rebuild import rebuild
from tests.support import databases
from tests.support.disk_actor import Crew
from tests.support.disk_faults import FAULTS, Older
from tests.support.disk_ledger import KEYS

path = databases.path


@pytest.mark.parametrize("name", KEYS)
def test_older_copy_with_the_row_that_is_remembered(
    path: Path, tmp_path: Path, name: str
) -> None:
    """Who had the last word in an older copy, written over the database in use, notices what others used (I1; A12)."""
    with Crew(path) as crew:
        ann, ben = crew.open(), crew.open()
        ann.begin()
        assert ann.take_of(name, 5) == []
        assert ben.checkpoint() == []
        older = Older(path, tmp_path / "older")
        assert ben.take_of(name, 5) == []
        assert ben.checkpoint() == []
        FAULTS["older written into it"](path, older.of(path), random.Random(0))
        (told,) = ann.take_of(name, 1)
        assert told.startswith("StoreRolledBackError: ")
        assert ann.take_of(name, 1) == [told]
        crew.dismiss()
        assert rebuild(path, shared=False) is not None
        assert crew.newcomer() == []
