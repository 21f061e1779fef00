"""Where a store lies: its default place, and the creation of its directory and files.

A database that exists is never opened here: closing any descriptor of it would drop the locks that SQLite holds on
it in this process (fcntl(2)).
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from pathlib import Path
from typing import Final

from persistent_nonce.errors import ConfigurationError, StoreUnavailableError
from persistent_nonce.stores.filesystems import check_filesystem
from persistent_nonce.stores.permissions import (
    check_directory,
    check_file,
    check_files,
    check_group,
    check_name,
    explain,
    shown,
)

__all__ = [
    "VARIABLE",
    "check_filesystem",
    "chosen_path",
    "create_database",
    "default_path",
    "home_path",
    "make_directory",
    "open_beside",
    "prepare",
    "sync",
]

#: The environment variable that names the database for all who name none.
VARIABLE: Final = "PERSISTENT_NONCE_DB"

#: Modes by whether the store is shared with a group.
_FILE: Final = {False: 0o600, True: 0o660}
_DIRECTORY: Final = {False: 0o700, True: 0o2770}

_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def chosen_path() -> Path | None:
    """Return the path that PERSISTENT_NONCE_DB names, or None if it is unset or empty.

    Raises:
        ConfigurationError: it is relative, and would be another file in each working directory.
    """
    chosen = os.environ.get(VARIABLE)
    if not chosen:
        return None
    if not os.path.isabs(chosen):
        raise ConfigurationError(
            f"{VARIABLE} is {chosen!r:.300}, which is not an absolute path",
            "begin it with a slash; nothing expands ~ here",
        )
    return Path(chosen)


def default_path() -> Path:
    """Return the database of those who name none: `chosen_path`, else the place in this user's home.

    Raises:
        ConfigurationError: PERSISTENT_NONCE_DB is relative.
        StoreUnavailableError: it is unset or empty, and the user has no home.
    """
    return chosen_path() or home_path(os.getuid())


def home_path(user: int) -> Path:
    """Return the place in the state directory of the user with the number `user`, which need not exist.

    The home is the one of the passwd database; the directory in it is the one platformdirs names while the
    environment names none. Not by HOME and XDG_STATE_HOME: a desktop, cron and systemd set them differently, and two
    programs with one key would each keep a count of their own.

    Raises:
        StoreUnavailableError: the user has no home.
    """
    try:
        home = pwd.getpwuid(user).pw_dir
    except KeyError:
        home = ""
    if not os.path.isabs(home):
        raise StoreUnavailableError(
            f"user {user} has no home directory for a store",
            f"set {VARIABLE} to the absolute path of a database",
        )
    inside = (
        "Library/Application Support" if sys.platform == "darwin" else ".local/state"
    )
    return Path(home, inside, "persistent_nonce", "nonces.db")


def prepare(path: Path, *, shared: bool, create: bool) -> Path:
    """Return the absolute real path of a database, once its place can be trusted.

    All of the path but its last part is resolved. With `create`, for the place in the user's home, up to three missing
    levels of directories are made; a directory that somebody named must exist, since it may be a mount that is missing.

    Raises:
        ConfigurationError: the name cannot be used.
        StorePermissionError: a name, owner, mode or link in the place cannot be trusted.
        StoreUnavailableError: the directory is missing, or cannot be made or looked at.
    """
    check_name(path)
    if create:
        for directory in reversed(path.parent.parents[:2]):
            make_directory(directory, shared=False)
        make_directory(path.parent, shared=shared)
    try:
        parent = Path(os.path.realpath(path.parent, strict=True))
        found = os.lstat(parent)
    except FileNotFoundError as error:
        hint = "make it with mode 0700 (2770 for a group), or mount what holds it"
        if path.parts[0].startswith("~"):
            hint = (
                "write the whole path, or Path(…).expanduser(); nothing expands ~ here"
            )
        raise StoreUnavailableError(
            f"there is no directory {shown(path.parent)}; no nonce was issued", hint
        ) from error
    except OSError as error:
        raise explain(error, path.parent) from error
    check_directory(parent, found, shared=shared)
    if shared:
        check_group(parent, found)
    check_files(parent / path.name, shared=shared)
    return parent / path.name


def make_directory(path: Path, *, shared: bool) -> None:
    """Make the directory `path`, mode 0700 or 2770 whatever the umask, unless something has its name.

    Raises:
        StoreError: it cannot be made.
    """
    mode = _DIRECTORY[shared]
    try:
        if os.path.lexists(path):
            _grant(path, mode)
            return
        os.mkdir(path, mode)
        os.chmod(path, mode)
        sync(path.parent)
    except FileExistsError:
        pass  # another process was faster
    except OSError as error:
        raise explain(error, path) from error


def create_database(path: Path, *, shared: bool) -> bool:
    """Create the empty database file unless something has its name, and return whether it was created.

    To be called under the store's lock: nobody may open the new file before its descriptor is closed here.

    Raises:
        StoreError: it cannot be created.
    """
    try:
        try:
            os.close(_create(path, shared=shared))
        except FileExistsError:
            _grant(path, _FILE[shared])
            if not os.stat(path).st_size:
                sync(path.parent)  # whoever created it may have died before doing so
            return False
    except OSError as error:
        raise explain(error, path) from error
    return True


def open_beside(path: Path, suffix: str, *, shared: bool) -> int:
    """Return a descriptor of a file named after the database `path`, created if missing, never truncated.

    Raises:
        StorePermissionError: what was opened is not a file that can be trusted.
        StoreError: it cannot be opened.
    """
    file = path.with_name(path.name + suffix)
    try:
        try:
            descriptor = _create(file, shared=shared)
        except FileExistsError:
            descriptor = os.open(file, _OPEN)
        try:
            check_file(file, os.fstat(descriptor), shared=shared)
            _grant(descriptor, _FILE[shared])
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise explain(error, file) from error
    return descriptor


def _create(path: Path, *, shared: bool) -> int:
    """Create a file where there is none, its mode whatever the umask, and return a descriptor of it."""
    mode = _FILE[shared]
    descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.fchmod(descriptor, mode)
        sync(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _grant(file: int | Path, mode: int) -> None:
    """Let the group in, as `mode` says, where a kill during the creation or an earlier private use left it out.

    Only this user's own files are changed, and none that their owner may not use: somebody has frozen it.
    """
    found = os.stat(file)
    missing = mode & ~found.st_mode
    if missing and not missing & stat.S_IRWXU and found.st_uid == os.geteuid():
        os.chmod(file, mode)


def sync(directory: Path) -> None:
    """Put the names in `directory` on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
