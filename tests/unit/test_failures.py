"""Every foreign error becomes one of ours, with a hint."""

from __future__ import annotations

import errno
import pickle
import sqlite3
from pathlib import Path

import pytest

from persistent_nonce.errors import (
    ForkedCallError,
    StoreCorruptError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from persistent_nonce.stores.failures import explain, inherited, primary

PATH = Path("/data/nonces.db")

CASES = [
    (sqlite3.SQLITE_FULL, StoreUnavailableError, "the disk is full"),
    (sqlite3.SQLITE_READONLY, StoreUnavailableError, "read-only"),
    (sqlite3.SQLITE_CANTOPEN, StoreUnavailableError, "cannot be opened"),
    (sqlite3.SQLITE_IOERR, StoreUnavailableError, "input/output error"),
    (sqlite3.SQLITE_PERM, StorePermissionError, "may not be used"),
    (sqlite3.SQLITE_CORRUPT, StoreCorruptError, "damaged"),
    (sqlite3.SQLITE_NOTADB, StoreCorruptError, "not a database"),
    (sqlite3.SQLITE_BUSY, StoreTimeoutError, "another program holds"),
    (sqlite3.SQLITE_MISUSE, StoreUnavailableError, "SQLite: what it said"),
]


@pytest.mark.parametrize(("code", "kind", "message"), CASES)
def test_each_code_has_its_error(
    code: int, kind: type[StoreError], message: str
) -> None:
    """A result code of SQLite, also an extended one, becomes its error, which names the file and has a hint (I9)."""
    error = sqlite3.OperationalError("what it said")
    for extended in (code, code | 5 << 8):
        error.sqlite_errorcode = extended
        assert primary(error) == code
        found = explain(error, PATH)
        assert type(found) is kind
        assert message in str(found)
        assert f"{PATH}; no nonce was issued" in str(found)
        assert found.hint
        assert str(pickle.loads(pickle.dumps(found))) == str(found)  # noqa: S301 - our own


def test_damage_names_the_remedy() -> None:
    """What is damaged says how to recover it."""
    error = sqlite3.DatabaseError("malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    assert "recover" in explain(error, PATH).hint


def test_errors_of_the_system_and_of_numbers() -> None:
    """The system's errors and numbers that do not fit are ours too, and say that no nonce was issued (I9)."""
    full = explain(OSError(errno.ENOSPC, "No space left on device"), PATH)
    large = explain(OverflowError("Python int too large"), PATH)
    for found in (full, large):
        assert isinstance(found, StoreError)
        assert "no nonce was issued" in str(found)
        assert found.hint


def test_error_without_a_code() -> None:
    """An error that SQLite did not give a code, such as the use of a closed connection, is ours as well."""
    assert primary(sqlite3.ProgrammingError("closed")) == 0
    assert isinstance(
        explain(sqlite3.ProgrammingError("closed"), PATH), StoreUnavailableError
    )


def test_inherited_store() -> None:
    """Who uses what its parent was using is told what to do instead."""
    error = inherited(PATH)
    assert isinstance(error, ForkedCallError)
    assert "spawn" in error.hint
