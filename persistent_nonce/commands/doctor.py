"""What is wrong with a database, its place, its lock and its keys: findings, each with what to do.

Nothing is changed and nothing is created. The one lock that is taken is a shared one on the store's lock file, for a
moment and without waiting, since no list of the system's shows the locks of other containers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.commands.access import open_reader
from persistent_nonce.commands.checks import check_key
from persistent_nonce.errors import NonceError, StoreError
from persistent_nonce.findings import Finding
from persistent_nonce.stores import place
from persistent_nonce.stores.failures import RECOVER
from persistent_nonce.stores.marks import path_of, read_marks
from persistent_nonce.stores.permissions import BESIDE, explain, is_shared, shown
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.salvage import is_sound
from persistent_nonce.stores.sessions import probe, process_state
from persistent_nonce.stores.slots import Mark, went_back

__all__ = ["default_stores", "examine", "loses_commits"]

#: Seconds for which the lock is tried; whoever holds it longer stands still.
_PATIENCE: Final = 1.0

#: Bytes without which a disk is as good as full: a few commits, or a new `-shm`.
_ROOM: Final = 65_536

#: Seconds between two tries, at random.
_RETRY: Final = (0.0005, 0.005)

#: A clock before this year was never set.
_OLDEST: Final = 2024

#: The first SQLite of each series without the WAL-reset bug, which came with 3.7.0.
_MENDED: Final = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def examine(
    path: Path | None = None, *, others: Callable[[], Iterable[Path]] | None = None
) -> list[Finding]:
    """Look at everything and return what was found.

    Args:
        path: the database; None is the default one.
        others: where else the keys may be found; None looks in the default stores of all users.

    Raises:
        ConfigurationError: the path cannot be used.
        StoreUnavailableError: none was given, and this user has no home.
    """
    implicit = path is None and place.chosen_path() is None
    given = place.default_path() if path is None else path
    reader = open_reader(given)
    found = [
        _tried("file system", partial(_file_system, given, implicit=implicit)),
        _tried("permissions", partial(_permissions, given)),
        _sqlite(sqlite3.sqlite_version_info),
        _lock(reader.path.with_name(reader.path.name + ".lock")),
        _clock(reader.now()),
    ]
    try:
        found += _keys(
            reader
        )  # the marks first: no row is older than one read before it
        found += _elsewhere(reader, others or default_stores)
    except StoreError as error:
        found.append(_wrong("database", error))
    finally:
        reader.close()
    return found


def _wrong(about: str, error: NonceError) -> Finding:
    return Finding(about, wrong=True, said=str(error.args[0]), do=error.hint)


def _tried(about: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(about, wrong=False, said=check())
    except NonceError as error:
        return _wrong(about, error)


# --- the place


def _file_system(path: Path, *, implicit: bool) -> str:
    place.check_filesystem(path, implicit=implicit, trust=False)
    with suppress(FileNotFoundError):  # said with the permissions
        _check_room(path.parent)
    return f"{path} lies on a file system of this machine"


def _check_room(directory: Path) -> None:
    """Raise StoreUnavailableError if nothing more can be written to the disk of a directory."""
    found = os.statvfs(directory)
    if found.f_flag & os.ST_RDONLY:
        raise explain(OSError(errno.EROFS, ""), directory)
    if found.f_bavail * found.f_frsize < _ROOM or (
        found.f_files and not found.f_favail
    ):
        raise explain(OSError(errno.ENOSPC, ""), directory)


def _permissions(path: Path) -> str:
    shared = is_shared(path)
    real = place.prepare(path, shared=shared, create=False)
    beside = [real.with_name(real.name + suffix) for suffix in BESIDE]
    for file in (real.parent, real, *beside):
        try:
            if os.statvfs(file).f_flag & os.ST_RDONLY:
                continue  # said with the file system; its modes may be right
        except FileNotFoundError:
            continue  # it comes and goes with the programs
        enter = os.X_OK if os.path.isdir(file) else 0
        if not os.access(file, os.R_OK | os.W_OK | enter) and os.path.exists(file):
            raise explain(PermissionError(), file)
    return "shared with a group" if shared else "for one user"


def loses_commits(version: tuple[int, ...]) -> bool:
    """Tell whether this SQLite can lose commits when two connections write and checkpoint at once."""
    mended = any(first[:2] == version[:2] and version >= first for first in _MENDED)
    return (3, 7, 0) <= version < _MENDED[-1] and not mended


def _sqlite(version: tuple[int, ...]) -> Finding:
    said = ".".join(map(str, version))
    if loses_commits(version):
        said += (
            "; it can lose commits where programs write without this library's lock, so let none do that"
            " (3.51.3 puts it right)"
        )
    return Finding("SQLite", wrong=False, said=said)


# --- the lock


def _lock(path: Path) -> Finding:
    try:
        # Read-only and without creating it: that is enough for flock(2). Nor is a pipe waited for.
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, how)
    except FileNotFoundError:
        return Finding("lock", wrong=False, said="no program has made it yet")
    except OSError as error:
        return _wrong("lock", explain(error, path))
    try:
        if _comes_free(descriptor):
            return Finding("lock", wrong=False, said="free")
        return _held(os.fstat(descriptor))
    finally:
        os.close(descriptor)  # and with it the lock, if it was got


def _comes_free(descriptor: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(random.uniform(*_RETRY))  # noqa: S311 - jitter, not a secret
        else:
            return True
    return False


def _held(file: os.stat_result) -> Finding:
    said = f"held for more than {_PATIENCE:g} s"
    pid = _holder(file)
    if pid is None:
        return Finding(
            "lock",
            wrong=True,
            said=f"{said} by a process that cannot be seen from here",
            do="look in the other containers for one that is stopped",
        )
    state = process_state(pid)
    do = f"look at what process {pid} does"
    if state == "stopped":
        do = f"let it go on (kill -CONT {pid}), or end it"
    return Finding("lock", wrong=True, said=f"{said} by process {pid} ({state})", do=do)


def _holder(file: os.stat_result) -> int | None:
    """Return who holds the lock of a file, as /proc/locks tells it (proc_locks(5))."""
    device = file.st_dev
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{file.st_ino}"
    try:
        lines = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
            return int(fields[4])
    return None


# --- the clock and the keys


def _clock(now: Now) -> Finding:
    said = datetime.fromtimestamp(now.wall / SECOND, UTC)
    wrong = said.year < _OLDEST
    return Finding(
        "clock",
        wrong=wrong,
        said=f"{said:%Y-%m-%d %H:%M:%S}Z",
        do="set the clock: nonces begin there" if wrong else "",
    )


def _keys(reader: Reader) -> Iterator[Finding]:
    marks, damaged = _marks(path_of(reader.path))
    keys = reader.keys()
    said = f"{reader.path}, {len(keys)} keys"
    if is_sound(reader.query):
        yield Finding("database", wrong=False, said=said)
    else:
        yield Finding("database", wrong=True, said=f"{said}, is damaged", do=RECOVER)
    if damaged:
        said = f"{damaged} of them are damaged"
        yield Finding("marks", wrong=True, said=said, do=RECOVER)
    ask = probe(reader.path)
    for key in keys:
        mark = marks.pop(key, None)
        try:
            state = reader.read(key)
        except StoreError as error:
            yield _wrong(f"key {key}", error)
            continue
        if mark is not None and went_back(state, mark, reader.now().boot):
            marks[key] = mark
        else:
            yield from check_key(state, reader.now(), ask)
    for key, mark in marks.items():
        said = f"the database went back: {mark.told}"
        yield Finding(f"key {key}", wrong=True, said=said, do=RECOVER)


def _marks(path: Path) -> tuple[dict[str, Mark], int]:
    try:
        return read_marks(path)
    except OSError as error:
        raise explain(error, path) from error


# --- other stores


def default_stores() -> Iterator[Path]:
    """Yield where the default store of each user of this machine would be."""
    for user in pwd.getpwall():
        try:
            yield place.home_path(user.pw_uid)
        except StoreError:
            continue  # no home, no store


def _elsewhere(
    reader: Reader, others: Callable[[], Iterable[Path]]
) -> Iterator[Finding]:
    """Yield a finding for each key that another store has too: two counts of one key collide."""
    own, looked, wrong = set(reader.keys()), 0, False
    for path in dict.fromkeys(Path(os.path.realpath(other)) for other in others()):
        if path == reader.path or not _is_there(path):
            continue
        other = Reader(path)
        try:
            both = own.intersection(other.keys())
        except StoreError:
            continue  # not to be read by this user
        finally:
            other.close()
        looked += 1
        for key in sorted(both):
            wrong = True
            yield Finding(
                "other stores",
                wrong=True,
                said=f"key {key} is in {shown(path)} too, with a count of its own",
                do="run all programs of a key as one user, or share one store; then move the other one away",
            )
    if not wrong:
        said = f"{looked} that can be read, none with a key of this one"
        yield Finding("other stores", wrong=False, said=said)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a home that this user may not look into
        return False
