"""What `doctor` finds in the place and the files of a database, and what it tells people to do."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from threading import Event, Thread

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.commands import doctor
from persistent_nonce.errors import ConfigurationError, StoreUnsupportedError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores import place
from tests.support import examined
from tests.support.commands import listing
from tests.support.examined import nowhere, wrong
from tests.support.states import at

database = examined.database


def test_nothing_is_wrong_with_a_new_database(database: Path) -> None:
    """A healthy database has no finding, and every check has said something."""
    found = doctor.examine(database, others=nowhere)
    assert not [finding for finding in found if finding.wrong]
    assert [finding.about for finding in found] == [
        "file system",
        "permissions",
        "SQLite",
        "lock",
        "clock",
        "database",
        *(f"key {fingerprint(key)} {key!r}" for key in sorted(("one", "two"), key=fingerprint)),
        "other stores",
    ]  # fmt: skip


def test_nothing_is_changed(database: Path) -> None:
    """An examination leaves every file as it was, and none behind."""
    before, times = listing(database.parent), os.stat(database).st_mtime_ns
    doctor.examine(database, others=nowhere)
    assert listing(database.parent) == before
    assert os.stat(database).st_mtime_ns == times


# --- the place


def test_a_missing_database(tmp_path: Path) -> None:
    """Where there is no database, that is the finding, and none is made."""
    (found,) = wrong(tmp_path / "nonces.db")
    assert found.startswith("database: there is no database")
    assert not list(tmp_path.iterdir())


def test_a_missing_directory(tmp_path: Path) -> None:
    """A missing directory is named."""
    found = wrong(tmp_path / "away" / "nonces.db")
    assert any("there is no directory" in each for each in found)


def test_an_impossible_path(tmp_path: Path) -> None:
    """A path that is none is an error, not a finding."""
    with pytest.raises(ConfigurationError):
        doctor.examine(tmp_path / "a\nb", others=nowhere)


def test_a_file_that_everybody_may_write(database: Path) -> None:
    """A mode that lets everybody write is a finding."""
    database.chmod(0o666)
    (found,) = wrong(database)
    assert "everybody may write" in found


@pytest.mark.parametrize("suffix", ["", ".lock", ".marks"])
def test_a_pipe(database: Path, suffix: str) -> None:
    """A pipe in the place of a file is a finding, and nobody waits until something is written into it."""
    file = database.with_name(database.name + suffix)
    file.unlink()
    os.mkfifo(file, 0o600)
    over, waited = Event(), Event()

    def let_go() -> None:  # SQLite cannot be interrupted there
        while not over.wait(0.1 if waited.is_set() else 20):  # a guard
            waited.set()
            os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))

    thread = Thread(target=let_go)
    thread.start()
    try:
        found = wrong(database)
    finally:
        over.set()
        thread.join()
    assert not waited.is_set()
    assert f"permissions: '{file}' is not a regular file" in found[0]


def test_a_link_to_a_database(database: Path) -> None:
    """Programs refuse a link to a database, so doctor says so; it looks into what it leads to all the same."""
    link = database.with_name("link.db")
    link.symlink_to(database)
    found = wrong(link)
    assert len(found) == 1
    assert "symbolic link" in found[0]


@pytest.mark.skipif(
    os.getuid() == 0, reason="NOT RUN: root may write what is read-only"
)
def test_a_read_only_database(database: Path) -> None:
    """A file that this user may not write is a finding."""
    database.chmod(0o400)
    assert any("permission denied" in each for each in wrong(database))


def test_a_file_without_write_permission(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the system says may not be written is a finding."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != database)
    (found,) = wrong(database)
    assert "permission denied" in found


def test_a_file_system_of_another_machine(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system on which the guarantees do not hold is a finding, with its hint."""

    def refuse(path: Path, *, implicit: bool, trust: bool) -> None:
        assert (path, implicit, trust) == (database, False, False)
        raise StoreUnsupportedError("it lies on nfs", "move it")

    monkeypatch.setattr(place, "check_filesystem", refuse)
    assert wrong(database) == ["file system: it lies on nfs -> move it"]


def test_the_default_place_is_judged_as_nobody_s_choice(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that nobody has named has to outlive containers and reboots."""
    seen = []

    def look(path: Path, *, implicit: bool, trust: bool) -> None:
        seen.append(implicit)

    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    monkeypatch.setattr(place, "default_path", lambda: database)
    monkeypatch.setattr(place, "check_filesystem", look)
    doctor.examine(None, others=nowhere)
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(database))
    doctor.examine(None, others=nowhere)
    assert seen == [True, False]


# --- SQLite


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False),
        ((3, 45, 0), True), ((3, 50, 6), True), ((3, 50, 7), False), ((3, 51, 0), True), ((3, 51, 2), True),
        ((3, 51, 3), False), ((3, 52, 0), False), ((4, 0, 0), False),
    ],
)  # fmt: skip
def test_versions_of_sqlite(version: tuple[int, ...], *, loses: bool) -> None:
    """The versions of SQLite with the WAL-reset bug are known, those that mended it too."""
    assert doctor.loses_commits(version) is loses


def test_the_version_of_sqlite_is_told(database: Path) -> None:
    """The version that runs is told, and is no finding, since the lock protects from its bug."""
    (found,) = [f for f in doctor.examine(database, others=nowhere) if f.about == "SQLite"]  # fmt: skip
    assert found.said.startswith(sqlite3.sqlite_version)
    assert not found.wrong


# --- the clock


def test_a_clock_that_was_never_set(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that says 1970 is a finding."""
    (found, *_) = [doctor._clock(at()._replace(wall=3600 * SECOND))]
    assert found.wrong
    assert "1970-01-01 01:00:00" in found.said
    assert not doctor._clock(at()).wrong


# --- what is in the file


def test_a_damaged_key_is_named_and_the_others_are_examined(database: Path) -> None:
    """A row with a changed bit is a finding; the other key is examined all the same."""
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE keys SET nonce = nonce + 1 WHERE key = ?", (fingerprint("one"),)
        )
    connection.close()
    found = doctor.examine(database, others=nowhere)
    ill = [finding for finding in found if finding.wrong]
    assert [finding.about for finding in ill] == [f"key {fingerprint('one')}"]
    assert f"key {fingerprint('two')} 'two'" in [finding.about for finding in found]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of something else is a finding."""
    path = tmp_path / "nonces.db"
    path.write_text("hello" * 1000)
    path.chmod(0o600)
    assert any(each.startswith("database: the file is not") for each in wrong(path))


# --- other stores


def test_a_key_in_another_store(database: Path, tmp_path: Path) -> None:
    """A key that another store counts too is a finding that names both; an own link to this store is none."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    with SQLiteStore(elsewhere / "nonces.db") as store:
        NonceProvider(store, "two").next()
        NonceProvider(store, "three").next()
    found = wrong(
        database, lambda: [database, elsewhere / "nonces.db", tmp_path / "no"]
    )
    assert len(found) == 1
    assert f"key {fingerprint('two')} is in '{elsewhere / 'nonces.db'}' too" in found[0]


def test_a_store_that_cannot_be_read_is_passed_over(
    database: Path, tmp_path: Path
) -> None:
    """What lies in another user's place and is no readable store is no finding."""
    (tmp_path / "other.db").write_bytes(b"x" * 4096)
    assert wrong(database, lambda: [tmp_path / "other.db"]) == []


def test_each_user_has_a_default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default stores of all users are looked at, this one's among them."""
    stores = [*doctor.default_stores()]
    assert place.home_path(os.getuid()) in stores
    assert all(path.name == "nonces.db" for path in stores)
