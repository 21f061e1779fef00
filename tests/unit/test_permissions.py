"""What is refused in the place of a store, and in which words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from persistent_nonce.errors import (
    NonceError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from persistent_nonce.stores import permissions, place

FILES = ("", "-wal", "-shm", ".lock", ".sessions")
ME = 1000
STRANGER = 1001
GROUP = 2000


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of a database that is not there yet, in a directory of mode 0700."""
    directory = tmp_path.resolve() / "state"
    directory.mkdir(0o700)
    return directory / "nonces.db"


def refused(path: Path, words: str) -> None:
    """Expect that the place is refused in these words, on one line, with a hint, and by `check_files` too."""
    with pytest.raises(StorePermissionError, match=words) as caught:
        place.prepare(path, shared=False, create=False)
    assert str(caught.value).isprintable()
    assert caught.value.hint


@pytest.mark.parametrize("suffix", FILES)
@pytest.mark.parametrize("dangling", [False, True])
def test_symbolic_link(database: Path, suffix: str, dangling: bool) -> None:
    """No name of the store may be a link, whether something is at its end or not."""
    target = database.parent.parent / "target"
    if not dangling:
        target.touch()
    Path(f"{database}{suffix}").symlink_to(target)
    refused(database, "symbolic link")
    assert target.exists() != dangling


@pytest.mark.parametrize("suffix", FILES[:-1])
def test_hard_link(database: Path, suffix: str) -> None:
    """No file of the store may have a second name."""
    file = Path(f"{database}{suffix}")
    file.touch(0o600)
    os.link(file, database.parent.parent / "other")
    refused(database, "2 hard links")


@pytest.mark.parametrize("suffix", FILES)
def test_wrong_kind(database: Path, suffix: str) -> None:
    """A directory or a pipe where a file belongs is refused, and a file where a directory belongs."""
    file = Path(f"{database}{suffix}")
    os.mkfifo(file, 0o600)
    refused(database, "is no directory" if suffix == ".sessions" else "regular file")
    file.unlink()
    if suffix != ".sessions":
        file.mkdir(0o700)
        refused(database, "regular file")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_world_writable_directory(database: Path, mode: int) -> None:
    """A directory in which everybody can make files is refused, a sticky one too."""
    database.parent.chmod(mode)
    refused(database, f"everybody may write .*mode {mode:04o}")


@pytest.mark.parametrize("suffix", FILES)
def test_world_writable_file(database: Path, suffix: str) -> None:
    """A file that everybody may write is refused."""
    file = Path(f"{database}{suffix}")
    file.mkdir() if suffix == ".sessions" else file.touch()
    file.chmod(0o666 | file.stat().st_mode & stat.S_IXUSR)
    refused(database, "everybody may write")


def test_parents_further_up_are_not_looked_at(database: Path) -> None:
    """Only the directory itself counts, as below /tmp."""
    database.parent.parent.chmod(0o1777)
    assert place.prepare(database, shared=False, create=False) == database


def look(uid: int, gid: int, mode: int) -> os.stat_result:
    """Return what lstat would say of something with this owner, group and mode."""
    return os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("uid", "gid", "shared", "file", "directory"),
    [
        (ME, ME, False, True, True),
        (ME, ME, True, True, True),
        (0, 0, False, False, True),  # a system directory, but not a file of root's
        (0, GROUP, True, True, True),
        (STRANGER, ME, False, False, False),
        (STRANGER, GROUP, False, False, False),
        (STRANGER, GROUP, True, True, True),
        (STRANGER, ME, True, True, True),
        (STRANGER, STRANGER, True, False, False),
    ],
)
def test_owner(
    uid: int,
    gid: int,
    shared: bool,
    file: bool,
    directory: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files are one's own, or of one's group if shared; a directory may also be root's."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    monkeypatch.setattr(os, "getegid", lambda: ME)
    monkeypatch.setattr(os, "getgroups", lambda: [GROUP])
    path = Path("/srv/nonces.db")

    def accepted(check: permissions.Check, kind: int) -> bool:
        try:
            check(path, look(uid, gid, kind | 0o660), shared=shared)
        except StorePermissionError as error:
            assert f"belongs to user {uid}" in str(error)
            assert f"this is user {ME}" in str(error)
            assert "mode 0660" in str(error)
            return False
        return True

    assert accepted(permissions.check_file, stat.S_IFREG) == file
    assert accepted(permissions.check_directory, stat.S_IFDIR) == directory


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, StorePermissionError, "permission denied to user"),
        (errno.EPERM, StorePermissionError, "permission denied to user"),
        (errno.ELOOP, StorePermissionError, "symbolic link"),
        (errno.EROFS, StoreUnavailableError, "read-only file system; no nonce"),
        (errno.ENOSPC, StoreUnavailableError, "the disk is full; no nonce was issued"),
        (errno.EDQUOT, StoreUnavailableError, "the disk is full .*no nonce was issued"),
        (errno.EMFILE, StoreUnavailableError, "no file descriptor left"),
        (errno.ENFILE, StoreUnavailableError, "no file descriptor left"),
        (errno.ENOENT, StoreUnavailableError, "no such file"),
        (errno.ENOTDIR, StoreUnavailableError, "no directory"),
        (errno.ENAMETOOLONG, StoreUnavailableError, "too long"),
        (errno.EIO, StoreUnavailableError, "input/output error; no nonce was issued"),
        (errno.ESTALE, StoreUnavailableError, os.strerror(errno.ESTALE)),
    ],
)
def test_explain(
    database: Path, number: int, kind: type[StoreError], words: str
) -> None:
    """Each fault of the system has its place in the tree, and the message names the path."""
    found = place.explain(OSError(number, os.strerror(number)), database)
    assert type(found) is kind
    with pytest.raises(NonceError, match=words):
        raise found
    assert str(database) in str(found)


def test_a_denied_access_names_what_stands_in_the_way(database: Path) -> None:
    """The message tells the mode and the owner of the nearest thing that can be seen."""
    denied = PermissionError(errno.EACCES, "denied")
    database.parent.chmod(0o510)
    said = str(place.explain(denied, database))
    assert f"{str(database.parent)!r} has mode 0510" in said
    assert f"to user {os.geteuid()}" in said
    database.parent.chmod(0o700)
    database.touch()
    database.chmod(0o400)
    said = str(place.explain(denied, database))
    assert f"{str(database)!r} has mode 0400" in said


def test_messages_are_one_short_line() -> None:
    """Neither a hostile path nor an error of odd text breaks the line."""
    path = Path("/x/" + "a\nb\x1b[2J" * 1000)
    odd = OSError("first\nsecond")
    for error in (odd, OSError(errno.EIO, "x"), PermissionError(errno.EPERM, "x")):
        said = str(place.explain(error, path))
        assert said.isprintable()
        assert len(said) < 1000
