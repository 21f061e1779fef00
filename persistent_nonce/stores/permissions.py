"""Why a path of a store is refused: by a look at its name, owner, mode and links, or by the system.

Everything is looked at with `lstat` before it is used, and nothing is opened here.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import sys
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from persistent_nonce.errors import (
    ConfigurationError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)

__all__ = [
    "BESIDE",
    "check_directory",
    "check_file",
    "check_files",
    "check_group",
    "check_name",
    "explain",
    "is_shared",
    "shown",
]

#: What lies beside a database and is named after it.
BESIDE: Final = ("-wal", "-shm", ".lock", ".marks", ".sessions")

#: What a shared directory allows and passes on; on macOS, new files have their directory's group in any case.
_GROUP_DIRECTORY: Final = 0o070 if sys.platform == "darwin" else 0o2070

_ONE_USER: Final = (
    "run all programs of a key as one user, or share the store with a group"
)
_LONGEST: Final = 300

#: What the owner of each file and directory needs of it, at least.
_OWN: Final = stat.S_IRUSR | stat.S_IWUSR

#: What is wrong and what can be done, where no change of owner or mode would help.
_FAULTS: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        errno.EROFS: ("read-only file system", "mount it read-write"),
        errno.ENOSPC: ("the disk is full", "free some space"),
        errno.EDQUOT: ("the disk is full (quota)", "free some space"),
        errno.EMFILE: ("no file descriptor left", "raise this process's `ulimit -n`"),
        errno.ENFILE: ("no file descriptor left", "raise the system's fs.file-max"),
        errno.ENOENT: ("no such file or directory", "look at the path and its mounts"),
        errno.ENOTDIR: ("a part of it is no directory", "look at the path"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
        errno.EIO: ("input/output error", "look at the disk and the system's log"),
    }
)


def explain(error: OSError, path: Path) -> StoreError:
    """Return what `error`, met at `path`, is in this library's tree, with a hint for the operator."""
    if error.errno == errno.ELOOP:
        return _link(path)
    if isinstance(error, PermissionError):
        return _denied(path)
    unknown = " ".join((error.strerror or repr(error)).split())
    what, hint = _FAULTS.get(error.errno or 0, (unknown, ""))
    return StoreUnavailableError(f"{shown(path)}: {what}; no nonce was issued", hint)


def shown(path: Path) -> str:
    """Return `path` quoted, on one line and short enough to be read."""
    text = repr(os.fspath(path))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def check_name(path: Path) -> None:
    """Refuse a path that cannot be written as one line of text, that leads nowhere, or that names no file.

    Raises:
        ConfigurationError: it is refused.
    """
    text = os.fspath(path)
    if any(unicodedata.category(sign) in {"Cc", "Cs", "Zl", "Zp"} for sign in text):
        raise ConfigurationError(
            f"unusable path {shown(path)}", "it holds control signs, or is not text"
        )
    try:
        path.absolute()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"unusable path {shown(path)}",
            "the working directory was deleted: change to one that exists",
        ) from error
    if path.name in {"", "..", ":memory:"}:
        raise ConfigurationError(
            f"unusable path {shown(path)}", "name a file, for instance nonces.db"
        )


def check_files(path: Path, *, shared: bool) -> None:
    """Refuse the database `path` if it, or what exists beside it, cannot be trusted.

    Raises:
        StorePermissionError: a link, a special file, a stranger's file, or one that everybody may write.
        StoreUnavailableError: it cannot be looked at.
    """
    for suffix in ("", *BESIDE):
        file = path.with_name(path.name + suffix)
        try:
            found = os.lstat(file)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise explain(error, file) from error
        check = check_directory if suffix == ".sessions" else check_file
        check(file, found, shared=shared)


def check_directory(path: Path, found: os.stat_result, *, shared: bool) -> None:
    """Refuse a directory in which a stranger could put a file in place of one of the store's.

    Raises:
        StorePermissionError: it is refused.
    """
    _check_kind(path, found, stat.S_IFDIR, "is no directory")
    if found.st_uid != 0:
        _check_owner(path, found, shared=shared)
    _check_mode(path, found)


def check_group(path: Path, found: os.stat_result) -> None:
    """Refuse to share a directory that keeps its group out, or does not pass it on to new files.

    Raises:
        StorePermissionError: it is refused.
    """
    if found.st_mode & _GROUP_DIRECTORY != _GROUP_DIRECTORY:
        raise StorePermissionError(
            f"{shown(path)} has mode {_mode(found)}, with which no group can share it",
            "give it the group of all who use the store, and mode 2770",
        )


def is_shared(path: Path) -> bool:
    """Tell whether the directory of the database `path` is one that a group shares."""
    try:
        check_group(path.parent, os.stat(path.parent))
    except (OSError, StoreError):
        return False
    return True


def check_file(path: Path, found: os.stat_result, *, shared: bool) -> None:
    """Refuse a file that is, or may become, something else than a file of the store.

    Raises:
        StorePermissionError: it is refused.
    """
    _check_kind(path, found, stat.S_IFREG, "is not a regular file")
    if found.st_nlink > 1:
        # SQLite and the lock name their other files after one of the names only.
        raise StorePermissionError(
            f"{shown(path)} has {found.st_nlink} hard links", "remove the other names"
        )
    _check_owner(path, found, shared=shared)
    _check_mode(path, found)


def _check_kind(path: Path, found: os.stat_result, kind: int, fault: str) -> None:
    """Refuse a link, and what is of another kind than `kind`, one of stat's S_IF constants."""
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if stat.S_IFMT(found.st_mode) != kind:
        raise StorePermissionError(f"{shown(path)} {fault}", "one is needed there")


def _check_owner(path: Path, found: os.stat_result, *, shared: bool) -> None:
    """Refuse what belongs to another user, unless it is shared with a group of this process."""
    if found.st_uid == os.geteuid():
        return
    if shared and found.st_gid in {os.getegid(), *os.getgroups()}:
        return
    raise StorePermissionError(
        f"{shown(path)} (mode {_mode(found)}) belongs to user {_user(found.st_uid)},"
        f" and this is user {_user(os.geteuid())}",
        _ONE_USER,
    )


def _check_mode(path: Path, found: os.stat_result) -> None:
    """Refuse what everybody may write; a sticky bit does not keep others from planting files."""
    if found.st_mode & stat.S_IWOTH:
        raise StorePermissionError(
            f"everybody may write {shown(path)} (mode {_mode(found)})",
            "use a directory of your own, mode 0700",
        )


def _link(path: Path) -> StorePermissionError:
    """Return the error for a symbolic link where none may be."""
    return StorePermissionError(
        f"{shown(path)} is a symbolic link, or leads into a loop of them",
        "name the file itself",
    )


def _denied(path: Path) -> StorePermissionError:
    """Return the error for an access that the system denied, with what stands in the way if it can be seen."""
    nearest = path
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    seen, hint = "", _ONE_USER
    with suppress(OSError):  # it went away meanwhile
        found = os.lstat(nearest)
        seen = f"; {shown(nearest)} has mode {_mode(found)} and belongs to user {_user(found.st_uid)}"
        if found.st_uid == os.geteuid() and _OWN & ~found.st_mode:
            hint = f"it is this user's own: chmod u+rwX {shown(nearest)}"
    return StorePermissionError(
        f"{shown(path)}: permission denied to user {_user(os.geteuid())}{seen}", hint
    )


def _mode(found: os.stat_result) -> str:
    """Return permission bits as chmod takes them."""
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _user(number: int) -> str:
    """Return a user's number, with the name if there is one."""
    try:
        return f"{number} ({pwd.getpwuid(number).pw_name})"
    except KeyError:
        return str(number)
