"""Where a store lies, and who may touch it there.

Everything is looked at with `lstat` and refused before it is opened. The database itself is never opened here if it
exists: closing any descriptor of it would drop the locks that SQLite holds on it in this process (fcntl(2)).
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from persistent_nonce.errors import (
    ConfigurationError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from persistent_nonce.stores.filesystems import BESIDE, check_filesystem

__all__ = [
    "VARIABLE",
    "check_files",
    "check_filesystem",
    "chosen_path",
    "create_database",
    "default_path",
    "explain",
    "make_directory",
    "open_lock",
    "prepare",
]

#: The environment variable that names the database for all programs that name none.
VARIABLE: Final = "PERSISTENT_NONCE_DB"

_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_ELSEWHERE: Final = f"set {VARIABLE} to a file in a directory of this user's own"
_LONGEST: Final = 300

#: What a shared directory must allow and pass on; on macOS new files always belong to their directory's group.
_GROUP_DIRECTORY: Final = 0o070 if sys.platform == "darwin" else 0o2070

#: What is wrong and what can be done, for the faults that no change of owner or mode would heal.
_FAULTS: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        errno.EROFS: ("read-only file system", "mount it read-write"),
        errno.ENOSPC: ("the disk is full", "free some space"),
        errno.EDQUOT: ("the disk is full: the quota is used up", "free some space"),
        errno.EMFILE: ("no file descriptor left", "raise this process's `ulimit -n`"),
        errno.ENFILE: ("no file descriptor left", "raise the system's fs.file-max"),
        errno.ENOENT: ("no such file or directory", "check the path and its mounts"),
        errno.ENOTDIR: ("a part of the path is no directory", "check the path"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter path"),
        errno.EIO: ("input/output error", "check the disk and the system's log"),
    }
)


def chosen_path() -> Path | None:
    """Return the path that PERSISTENT_NONCE_DB names, or None if it is unset or empty.

    Raises:
        ConfigurationError: it is not absolute, and would be another file in each working directory.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if not os.path.isabs(value):
        raise ConfigurationError(
            f"{VARIABLE} is {value!r:.300}, which is not an absolute path",
            "begin it with /; nothing expands ~ here",
        )
    return Path(value)


def default_path() -> Path:
    """Return the database of those who name none: the chosen one, else one in the user's state directory.

    The home is the one in the passwd file, and the directory in it the one that platformdirs names where the
    environment says nothing: cron, systemd and a desktop set HOME and XDG_STATE_HOME differently, and two programs
    that share a key would each get a store of their own.

    Raises:
        ConfigurationError: PERSISTENT_NONCE_DB is not absolute.
        StoreUnavailableError: the user has no home.
    """
    chosen = chosen_path()
    if chosen is not None:
        return chosen
    user = os.getuid()
    try:
        home = pwd.getpwuid(user).pw_dir
    except KeyError:
        home = ""
    if not os.path.isabs(home):
        raise StoreUnavailableError(f"user {user} has no home directory", _ELSEWHERE)
    state = (
        "Library/Application Support" if sys.platform == "darwin" else ".local/state"
    )
    return Path(home, state, "persistent_nonce", "nonces.db")


def prepare(path: Path, *, shared: bool, create: bool) -> Path:
    """Return the absolute real path of the database, once its place can be trusted.

    All of the path but its last part is resolved. With `create` (for the default place) up to three missing
    directories are made. A directory that somebody named must exist: a missing one may be a missing mount.

    Raises:
        ConfigurationError: the name cannot be used.
        StorePermissionError: an owner, mode or link in the place cannot be trusted.
        StoreUnavailableError: the directory is missing, or cannot be made or read.
    """
    _check_name(path)
    if create:
        for directory in (*reversed(path.parent.parents[:2]), path.parent):
            last = directory == path.parent
            make_directory(directory, shared=shared and last)
    try:
        parent = Path(os.path.realpath(path.parent, strict=True))
        _check_directory(parent, os.lstat(parent), shared=shared)
    except FileNotFoundError as error:
        raise StoreUnavailableError(
            f"no directory {_shown(path.parent)}; no nonce was issued",
            "make it with mode 0700 (2770 for a group), or mount what holds it",
        ) from error
    except OSError as error:
        raise explain(error, path.parent) from error
    check_files(parent / path.name, shared=shared)
    return parent / path.name


def make_directory(path: Path, *, shared: bool) -> None:
    """Make the directory `path` for this user alone, or for its group, unless something of this name exists.

    Raises:
        StoreError: it cannot be made.
    """
    mode = 0o2770 if shared else 0o700
    try:
        if os.path.lexists(path):
            return
        os.mkdir(path, mode)
        os.chmod(path, mode)  # whatever the umask is
        _sync(path.parent)
    except FileExistsError:
        return  # another process was faster
    except OSError as error:
        raise explain(error, path) from error


def create_database(path: Path, *, shared: bool) -> bool:
    """Create the empty database file unless it exists, and return whether it did not.

    To be called under the store's lock: nobody may open the new file before its descriptor is closed here. One that
    exists is not opened.

    Raises:
        StoreError: it cannot be created.
    """
    try:
        os.close(_create(path, shared=shared))
    except FileExistsError:
        return False
    except OSError as error:
        raise explain(error, path) from error
    return True


def open_lock(path: Path, *, shared: bool) -> int:
    """Return a descriptor of the lock file beside the database `path`, created if it is missing, never truncated.

    Raises:
        StorePermissionError: what was opened is not a file that can be trusted.
        StoreUnavailableError: it cannot be opened.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        try:
            descriptor = _create(lock, shared=shared)
        except FileExistsError:
            descriptor = os.open(lock, _OPEN)
        try:
            _check_file(lock, os.fstat(descriptor), shared=shared)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise explain(error, lock) from error
    return descriptor


def check_files(path: Path, *, shared: bool) -> None:
    """Refuse what exists of the database `path` and the files beside it unless it can be trusted; opens nothing.

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
        check = _check_directory if suffix == ".sessions" else _check_file
        check(file, found, shared=shared)


def explain(error: OSError, path: Path) -> StoreError:
    """Return what `error`, met at `path`, is in this library's tree, with a hint for the operator."""
    if error.errno == errno.ELOOP:
        return _link(path)
    if isinstance(error, PermissionError):
        return _denied(path)
    unknown = " ".join((error.strerror or repr(error)).split())
    what, hint = _FAULTS.get(error.errno or 0, (unknown, ""))
    return StoreUnavailableError(f"{_shown(path)}: {what}; no nonce was issued", hint)


def _denied(path: Path) -> StorePermissionError:
    """Return the error for an access denied, with what stands in the way as far as it can be seen."""
    nearest = path
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        found = os.lstat(nearest)
    except OSError:  # it went away meanwhile
        seen = ""
    else:
        seen = f"; {_shown(nearest)} has mode {_mode(found)} and belongs to {_owner(found)}"
    return StorePermissionError(
        f"{_shown(path)}: permission denied to user {_user(os.geteuid())}{seen}",
        "run all programs of a key as one user, or share the store with a group",
    )


def _link(path: Path) -> StorePermissionError:
    """Return the error for a symbolic link in a place where it could lead anywhere."""
    return StorePermissionError(
        f"{_shown(path)} is a symbolic link", "name the file that it leads to"
    )


def _check_name(path: Path) -> None:
    """Refuse a path that cannot be written on one line of text, or that names no file."""
    text = os.fspath(path)
    if any(unicodedata.category(sign) in {"Cc", "Cs", "Zl", "Zp"} for sign in text):
        raise ConfigurationError(
            f"unusable path {_shown(path)}", "it holds control signs or is no text"
        )
    if path.name in {"", "..", ":memory:"}:
        raise ConfigurationError(
            f"unusable path {_shown(path)}", "name a file, for instance nonces.db"
        )


def _check_directory(path: Path, found: os.stat_result, *, shared: bool) -> None:
    """Refuse a directory in which a stranger could put a file in place of one of the store's."""
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StorePermissionError(f"{_shown(path)} is no directory", "move it away")
    if found.st_uid != 0:
        _check_owner(path, found, shared=shared)
    _check_mode(path, found)
    if shared and found.st_mode & _GROUP_DIRECTORY != _GROUP_DIRECTORY:
        raise StorePermissionError(
            f"directory {_shown(path)} has mode {_mode(found)}: new files in it would not belong to its group",
            "chgrp it to the group of all who share the store, and chmod 2770",
        )


def _check_file(path: Path, found: os.stat_result, *, shared: bool) -> None:
    """Refuse a file that is, or could become, something else than a file of the store."""
    if stat.S_ISLNK(found.st_mode):
        raise _link(path)
    if not stat.S_ISREG(found.st_mode):
        raise StorePermissionError(
            f"{_shown(path)} is no regular file", "name a file, not a directory"
        )
    if found.st_nlink > 1:
        raise StorePermissionError(
            f"{_shown(path)} has {found.st_nlink} names (hard links)",
            "SQLite names its other files after one of them; remove the other names",
        )
    _check_owner(path, found, shared=shared)
    _check_mode(path, found)


def _check_owner(path: Path, found: os.stat_result, *, shared: bool) -> None:
    """Refuse what belongs to another user, unless it is shared with a group that this process is in."""
    if found.st_uid == os.geteuid():
        return
    if shared and found.st_gid in {os.getegid(), *os.getgroups()}:
        return
    raise StorePermissionError(
        f"{_shown(path)} belongs to {_owner(found)}, not to user {_user(os.geteuid())}",
        "run all programs of a key as one user, or share the store with a group",
    )


def _check_mode(path: Path, found: os.stat_result) -> None:
    """Refuse what everybody may write, also where a sticky bit keeps others from renaming it."""
    if found.st_mode & stat.S_IWOTH:
        raise StorePermissionError(
            f"{_shown(path)} is writable by everybody (mode {_mode(found)})",
            "use a directory of your own; chmod o-w",
        )


def _create(path: Path, *, shared: bool) -> int:
    """Create a file that must not exist, mode 0600 or 0660 whatever the umask is, and return a descriptor of it."""
    mode = 0o660 if shared else 0o600
    descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.fchmod(descriptor, mode)
        _sync(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync(directory: Path) -> None:
    """Put the names in `directory` on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(path: Path) -> str:
    """Return `path` quoted, on one line and not too long to be read."""
    text = repr(os.fspath(path))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"


def _owner(found: os.stat_result) -> str:
    return f"user {_user(found.st_uid)}"


def _user(number: int) -> str:
    """Return a user's name with its number, or the number if it has none."""
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return str(number)
