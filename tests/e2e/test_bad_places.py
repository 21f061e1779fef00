"""Places and files that cannot be used are refused, and not changed: in programs and on the command line."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from persistent_nonce import NonceProvider, SQLiteStore, open_store
from persistent_nonce.errors import (
    ConfigurationError,
    NonceError,
    StoreCorruptError,
    StorePermissionError,
    StoreUnavailableError,
    StoreVersionError,
)
from persistent_nonce.state import fingerprint
from tests.support.commands import fails, listing, run
from tests.support.refusals import refused


def no_directory(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a file in a directory that does not exist."""
    return place / "missing" / "nonces.db", StoreUnavailableError


def a_directory(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a directory."""
    (place / "nonces.db").mkdir()
    return place / "nonces.db", StorePermissionError


def a_pipe(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a pipe, into which nobody writes."""
    path = place / "nonces.db"
    os.mkfifo(path, 0o600)
    return path, StorePermissionError


def text(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a file of text."""
    path = place / "nonces.db"
    path.write_text("nonce=1\n" * 1000)
    path.chmod(0o600)
    return path, StoreCorruptError


def somebody_else_s(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a database of another program."""
    path = place / "nonces.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    path.chmod(0o600)
    return path, StoreCorruptError


def newer(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a database that a newer version has migrated."""
    path = place / "nonces.db"
    SQLiteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return path, StoreVersionError


def a_control_sign(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a file with a line feed in its name."""
    return place / "a\nb.db", ConfigurationError


PLACES: Final = (no_directory, a_directory, a_pipe, text, somebody_else_s, newer, a_control_sign)  # fmt: skip


@pytest.mark.parametrize("make", PLACES)
def test_an_unusable_database(
    tmp_path: Path, make: Callable[[Path], tuple[Path, type[NonceError]]]
) -> None:
    """A place or a file that cannot be the database is refused, and not changed."""
    path, kind = make(tmp_path)
    content = path.read_bytes() if path.is_file() else b""
    refused(kind, lambda: SQLiteStore(path))
    assert (path.read_bytes() if path.is_file() else b"") == content


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize(
    "command", ["show", "calls", "watch", "next abc", f"raise-floor {'0' * 16} 7"]
)
def test_an_unusable_database_on_the_command_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], tuple[Path, type[NonceError]]],
    command: str,
) -> None:
    """There it is one line on stderr and exit code 2, and no file appears but the lock of a command that writes."""
    path, _ = make(tmp_path)
    before = listing(tmp_path)
    fails(capsys, *command.split(), "--db", path)
    more = {name for name, _ in listing(tmp_path)} - {name for name, _ in before}
    assert more <= {"nonces.db.lock"} if "raise" in command else not more


def test_a_read_only_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that SQLite may only read is refused before a nonce is given, and goes on when it may be written."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "k").next()
    connect = sqlite3.connect

    def only_read(database: str, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(database, **options)
        connection.execute("PRAGMA query_only = ON")
        return connection

    monkeypatch.setattr(sqlite3, "connect", only_read)
    text = refused(NonceError, lambda: NonceProvider(SQLiteStore(path), "k").next())
    assert "no nonce was issued" in text
    monkeypatch.undo()
    with SQLiteStore(path) as store:
        NonceProvider(store, "k").next()


@pytest.mark.skipif(
    os.getuid() == 0, reason="NOT RUN: root may write what is read-only"
)
def test_a_file_without_write_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of mode 0400 is refused to who wants to write, and can still be shown."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "k").next()
    path.chmod(0o400)
    refused(NonceError, lambda: NonceProvider(SQLiteStore(path), "k").next())
    fails(capsys, "next", fingerprint("k"), "--db", path)
    assert run(capsys, "show", "--db", path).code == 0


def test_a_relative_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relative PERSISTENT_NONCE_DB would be another file in each directory, and is refused."""
    monkeypatch.setenv("PERSISTENT_NONCE_DB", "nonces.db")
    refused(ConfigurationError, open_store)
    for command in ("show", "doctor", "next a"):
        fails(capsys, *command.split())


def test_a_deleted_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a redeploy took the directory away, a relative path is refused in words, an absolute one is used (I9)."""
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    away.rmdir()
    said = refused(ConfigurationError, lambda: SQLiteStore("nonces.db"))
    assert "working directory" in said
    for command in ("show", "doctor", "recover", f"raise-floor {'0' * 16} 7"):
        fails(capsys, *command.split(), "--db", "nonces.db")
    with SQLiteStore(tmp_path / "nonces.db") as store:
        NonceProvider(store, "k").next()
