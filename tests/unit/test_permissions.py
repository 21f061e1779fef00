"""What is refused in the place of a store, and in which words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from persistent_nonce.errors import (
    ConfigurationError,
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
    """Expect that the place is refused in these words, on one line, with a hint."""
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


OWNERS = [
    # owner, group, shared: is a file accepted, and a directory
    (ME, ME, False, True, True),
    (ME, ME, True, True, True),
    (0, 0, False, False, True),  # a system directory, but not a file of root's
    (0, GROUP, True, True, True),
    (STRANGER, ME, False, False, False),
    (STRANGER, GROUP, False, False, False),
    (STRANGER, GROUP, True, True, True),
    (STRANGER, ME, True, True, True),
    (STRANGER, STRANGER, True, False, False),
]


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be user and group ME, and a member of GROUP."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    monkeypatch.setattr(os, "getegid", lambda: ME)
    monkeypatch.setattr(os, "getgroups", lambda: [GROUP])


@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize("case", OWNERS)
@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR])
def test_owner(case: tuple[int, int, bool, bool, bool], kind: int) -> None:
    """Files are one's own, or of one's group if shared; a directory may also be root's."""
    uid, gid, shared, file, directory = case
    is_file = kind == stat.S_IFREG
    check = permissions.check_file if is_file else permissions.check_directory
    path, found = Path("/srv/nonces.db"), look(uid, gid, kind | 0o660)
    if file if is_file else directory:
        check(path, found, shared=shared)
        return
    with pytest.raises(
        StorePermissionError,
        match=f"mode 0660.* belongs to user {uid}.* this is user {ME}",
    ):
        check(path, found, shared=shared)


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
    found = permissions.explain(OSError(number, os.strerror(number)), database)
    assert type(found) is kind
    with pytest.raises(NonceError, match=words):
        raise found
    assert str(database) in str(found)


def test_a_denied_access_names_what_stands_in_the_way(database: Path) -> None:
    """The message tells the mode and the owner of the nearest thing that can be seen."""
    denied = PermissionError(errno.EACCES, "denied")
    database.parent.chmod(0o510)
    said = str(permissions.explain(denied, database))
    assert f"{str(database.parent)!r} has mode 0510" in said
    assert f"to user {os.geteuid()}" in said
    database.parent.chmod(0o700)
    database.touch()
    database.chmod(0o400)
    said = str(permissions.explain(denied, database))
    assert f"{str(database)!r} has mode 0400" in said


def test_a_denied_access_to_what_is_ones_own(database: Path) -> None:
    """Who has closed a file or directory to itself is told to open it, not to become another user."""
    denied = PermissionError(errno.EACCES, "denied")
    database.touch()
    database.chmod(0o400)
    said = permissions.explain(denied, database)
    assert f"chmod u+rwX {str(database)!r}" in said.hint
    database.chmod(0o600)
    assert "as one user" in permissions.explain(denied, database).hint


def test_messages_are_one_short_line() -> None:
    """Neither a hostile path nor an error of odd text breaks the line."""
    path = Path("/x/" + "a\nb\x1b[2J" * 1000)
    odd = OSError("first\nsecond")
    for error in (odd, OSError(errno.EIO, "x"), PermissionError(errno.EPERM, "x")):
        said = str(permissions.explain(error, path))
        assert said.isprintable()
        assert len(said) < 1000


@pytest.mark.parametrize(
    "sign", ["\0", "\n", "\r", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\ud800"]
)
def test_name_that_is_no_line_of_text(database: Path, sign: str) -> None:
    """What ends a line, steers a terminal or has no encoding is refused, in the directory's name too."""
    for path in (database.with_name(f"a{sign}b"), Path(f"/srv/a{sign}b/nonces.db")):
        with pytest.raises(ConfigurationError) as caught:
            place.prepare(path, shared=False, create=True)
        assert str(caught.value).isprintable()


def test_look_alikes_are_other_names(database: Path) -> None:
    """A name that only looks like another is another file; accents and joiners are allowed."""
    for name in ("n\u043ences.db", "nonces\u200d.db", "e\u0301.db", "\xe9.db"):
        path = database.with_name(name)
        assert place.prepare(path, shared=False, create=False) == path
