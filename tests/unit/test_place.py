"""Where a store lies by default, and what its directory and files are like once they are made."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from persistent_nonce.errors import (
    ConfigurationError,
    StorePermissionError,
    StoreUnavailableError,
)
from persistent_nonce.stores import permissions, place


@contextmanager
def umask(value: int) -> Iterator[None]:
    """Create files under this umask."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    """Return the permission bits of `path`."""
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of a database that is not there yet, in a directory of mode 0700."""
    directory = tmp_path.resolve() / "state"
    directory.mkdir(0o700)
    return directory / "nonces.db"


# --- the default place


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home that passwd names for this user, with nothing said in the environment."""
    entry = ("bot", "x", os.getuid(), os.getgid(), "", "/home/bot", "/bin/sh")
    monkeypatch.setattr(pwd, "getpwuid", lambda user: pwd.struct_passwd(entry))
    for variable in (place.VARIABLE, "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return Path("/home/bot")


def test_the_default_is_the_one_of_platformdirs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a plain environment the place is the user state directory as platformdirs knows it."""
    monkeypatch.setenv("HOME", str(home))
    usual = platformdirs.user_state_path("persistent_nonce", appauthor=False)
    assert place.default_path() == usual / "nonces.db"


def test_the_default_depends_on_no_other_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cron, systemd and a desktop, whose HOME and XDG_STATE_HOME differ, find the same store."""
    before = place.default_path()
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    monkeypatch.setenv("TMPDIR", "/tmp")  # noqa: S108 — no file is made
    assert place.default_path() == before
    assert before.is_relative_to(home)


def test_the_variable_names_the_place(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PERSISTENT_NONCE_DB is taken as it is; an empty one counts as unset."""
    monkeypatch.setenv(place.VARIABLE, "/srv/bots/../kraken.db")
    assert place.default_path() == Path("/srv/bots/../kraken.db")
    assert place.chosen_path() == place.default_path()
    monkeypatch.setenv(place.VARIABLE, "")
    assert place.chosen_path() is None
    assert place.default_path() == place.home_path(os.getuid())


@pytest.mark.parametrize("value", ["nonces.db", "~/nonces.db", " /x/nonces.db", "."])
def test_a_relative_variable_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that would be another file in each working directory is no common place."""
    monkeypatch.setenv(place.VARIABLE, value)
    with pytest.raises(ConfigurationError, match="not an absolute path"):
        place.default_path()


def test_a_user_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom passwd knows nothing is told to set the variable."""

    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(StoreUnavailableError, match="set PERSISTENT_NONCE_DB"):
        place.default_path()


# --- the directory


def test_prepare_returns_the_real_path(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path and one through a link to the directory lead to one absolute path; nothing is made."""
    link = database.parent.parent / "link"
    link.symlink_to(database.parent)
    monkeypatch.chdir(database.parent)
    for path in (Path("nonces.db"), link / "nonces.db", Path("../link/nonces.db")):
        assert place.prepare(path, shared=False, create=False) == database
    assert not list(database.parent.iterdir())


def test_a_named_directory_must_exist(tmp_path: Path) -> None:
    """A missing directory is an error that names it, and is not made: a mount may be missing."""
    path = tmp_path / "mnt" / "nonces.db"
    with pytest.raises(StoreUnavailableError, match="no directory") as caught:
        place.prepare(path, shared=False, create=False)
    assert str(path.parent) in str(caught.value)
    assert "mode 0700" in caught.value.hint
    assert not path.parent.exists()


def test_a_home_that_nothing_expands() -> None:
    """A path that begins with ~ is not answered with the advice to make a directory of that name."""
    with pytest.raises(StoreUnavailableError, match="no directory") as caught:
        place.prepare(Path("~/nonces.db"), shared=False, create=False)
    assert "nothing expands ~" in caught.value.hint
    assert "make it" not in caught.value.hint


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """A path that leads through a file is an error of the tree."""
    (tmp_path / "file").touch()
    with pytest.raises(StorePermissionError, match="is no directory"):
        place.prepare(tmp_path / "file" / "nonces.db", shared=False, create=False)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_the_default_directory_is_made(tmp_path: Path, mask: int) -> None:
    """Up to three missing levels are made, each of mode 0700 whatever the umask is."""
    path = tmp_path.resolve() / ".local" / "state" / "persistent_nonce" / "nonces.db"
    with umask(mask):
        assert place.prepare(path, shared=False, create=True) == path
        assert place.prepare(path, shared=False, create=True) == path
    assert {mode(made) for made in path.parents[:3]} == {0o700}
    assert not path.exists()


def test_a_home_is_not_made(tmp_path: Path) -> None:
    """A fourth missing level is the home itself, which nobody but the system should make."""
    path = tmp_path / "home" / ".local" / "state" / "persistent_nonce" / "nonces.db"
    with pytest.raises(StoreUnavailableError):
        place.prepare(path, shared=False, create=True)
    assert not list(tmp_path.iterdir())


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    """A state directory that links to a disk which is not mounted is not made in its stead."""
    (tmp_path / "state").symlink_to(tmp_path / "disk")
    path = tmp_path / "state" / "persistent_nonce" / "nonces.db"
    with pytest.raises(StoreUnavailableError):
        place.prepare(path, shared=False, create=True)
    assert not (tmp_path / "disk").exists()


def test_an_existing_directory_keeps_its_mode(database: Path) -> None:
    """A directory that others may read is accepted as it is."""
    database.parent.chmod(0o755)
    place.prepare(database, shared=False, create=True)
    assert mode(database.parent) == 0o755


def test_a_shared_directory(tmp_path: Path) -> None:
    """A shared directory is made with mode 2770, and another one is refused unless its group gets in."""
    path = tmp_path / "state" / "nonces.db"
    with umask(0o077):
        place.prepare(path, shared=True, create=True)
    assert mode(path.parent) == 0o2770
    for closed in (0o700, 0o770, 0o2750):
        path.parent.chmod(closed)
        with pytest.raises(StorePermissionError, match=f"mode {closed:04o}.*2770"):
            place.prepare(path, shared=True, create=False)


@pytest.mark.parametrize("name", ["", "..", ":memory:"])
def test_a_name_is_needed(database: Path, name: str) -> None:
    """A path without a file's name, and SQLite's name for no file, are refused."""
    path = Path("/") if not name else database.parent / name
    with pytest.raises(ConfigurationError, match="name a file"):
        place.prepare(path, shared=False, create=False)


def test_new_names_are_synced(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory around each new name is on the disk before anybody relies on it (I4)."""
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    place.create_database(database, shared=False)
    assert synced == [database.parent.stat().st_ino]
    place.make_directory(database.with_name("sessions"), shared=False)
    assert synced == [database.parent.stat().st_ino] * 2
    place.create_database(database, shared=False)  # empty: its maker may have died
    assert synced == [database.parent.stat().st_ino] * 3
    database.write_bytes(b"used")
    place.create_database(database, shared=False)
    assert len(synced) == 3


def test_a_failing_disk_leaves_no_descriptor(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the new name cannot be synced, the error is of the tree and everything is closed again."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "worn out")

    monkeypatch.setattr(os, "fsync", fsync)
    before = os.listdir("/dev/fd")
    with pytest.raises(StoreUnavailableError, match="input/output error"):
        place.create_database(database, shared=False)
    with pytest.raises(StoreUnavailableError, match="input/output error"):
        place.open_beside(database, ".lock", shared=False)
    assert os.listdir("/dev/fd") == before


def test_a_loop_of_links(tmp_path: Path) -> None:
    """A directory that is a link to itself is an error of the tree."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorePermissionError, match="loop of them"):
        place.prepare(tmp_path / "loop" / "nonces.db", shared=False, create=False)


def test_another_process_was_faster(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that appears between the look and the making is fine."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    place.make_directory(database.parent, shared=False)
    assert mode(database.parent) == 0o700


# --- the files


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o377])
@pytest.mark.parametrize(("shared", "expected"), [(False, 0o600), (True, 0o660)])
def test_modes_of_files(database: Path, mask: int, shared: bool, expected: int) -> None:
    """Files get exactly their mode, whatever the umask is."""
    with umask(mask):
        assert place.create_database(database, shared=shared)
        os.close(place.open_beside(database, ".lock", shared=shared))
    lock = database.with_name("nonces.db.lock")
    assert (mode(database), mode(lock)) == (expected, expected)


def test_an_existing_database_is_not_opened(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a new file is ever opened: closing another descriptor would drop SQLite's locks in this process."""
    database.write_bytes(b"kept")
    flags: list[int] = []
    real = os.open

    def watched(path: Any, flag: int, mode: int = 0o777) -> int:
        if Path(path) == database:
            flags.append(flag)
        return real(path, flag, mode)

    monkeypatch.setattr(os, "open", watched)
    place.prepare(database, shared=False, create=True)
    permissions.check_files(database, shared=False)
    assert not place.create_database(database, shared=False)
    assert flags
    assert all(flag & os.O_EXCL for flag in flags)
    assert database.read_bytes() == b"kept"


def test_the_lock_file_is_kept(database: Path) -> None:
    """A lock file is opened for writing as it is, never truncated or replaced, and not inherited."""
    lock = database.with_name("nonces.db.lock")
    lock.write_bytes(b"kept")
    before = lock.stat().st_ino
    descriptor = place.open_beside(database, ".lock", shared=False)
    try:
        assert os.fstat(descriptor).st_ino == before
        assert os.pread(descriptor, 10, 0) == b"kept"
        assert os.pwrite(descriptor, b"K", 0) == 1
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_a_refused_lock_file_leaves_no_descriptor(database: Path) -> None:
    """A lock file that is a link or has two names is refused, with everything closed again."""
    lock = database.with_name("nonces.db.lock")
    before = os.listdir("/dev/fd")
    lock.touch()
    os.link(lock, database.with_name("other"))
    with pytest.raises(StorePermissionError, match="hard link"):
        place.open_beside(database, ".lock", shared=False)
    lock.unlink()
    lock.symlink_to(database.with_name("other"))
    with pytest.raises(StorePermissionError, match="symbolic link"):
        place.open_beside(database, ".lock", shared=False)
    assert os.listdir("/dev/fd") == before


def test_sharing_lets_the_group_in(database: Path) -> None:
    """What an earlier private use or a kill while it was made kept from the group is opened to it."""
    sessions = database.with_name("nonces.db.sessions")
    place.create_database(database, shared=False)
    os.close(place.open_beside(database, ".lock", shared=False))
    place.make_directory(sessions, shared=False)
    place.create_database(database, shared=True)
    os.close(place.open_beside(database, ".lock", shared=True))
    place.make_directory(sessions, shared=True)
    assert mode(database) == mode(database.with_name("nonces.db.lock")) == 0o660
    assert mode(sessions) == 0o2770


def test_a_frozen_file_stays_frozen(database: Path) -> None:
    """A file that somebody made read-only is not made writable again."""
    place.create_database(database, shared=True)
    database.chmod(0o400)
    for shared in (False, True):
        place.create_database(database, shared=shared)
        assert mode(database) == 0o400


def test_errors_of_creation_are_mapped(tmp_path: Path) -> None:
    """No OSError leaves a function that makes something."""
    path = tmp_path / "absent" / "nonces.db"
    with pytest.raises(StoreUnavailableError, match="no such file"):
        place.create_database(path, shared=False)
    with pytest.raises(StoreUnavailableError, match="no such file"):
        place.open_beside(path, ".lock", shared=False)
    with pytest.raises(StoreUnavailableError, match="no such file"):
        place.make_directory(path, shared=False)
