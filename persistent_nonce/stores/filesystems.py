"""The file system a store lies on, as /proc/self/mountinfo tells it (proc_pid_mountinfo(5)).

Locks and shared memory hold within one kernel. A file system that another machine or another kernel serves may
grant one lock twice; a container's own layer is gone at the next deploy, with all that was remembered in it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from persistent_nonce.errors import StoreUnavailableError, StoreUnsupportedError
from persistent_nonce.stores.permissions import BESIDE, check_name, shown

__all__ = ["Mount", "check_filesystem", "mount_of", "parse_mounts"]

#: Types served by another machine, or by another kernel on this one; and what such a type may begin with.
_REMOTE: Final = frozenset(
    (
        *("9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs"),
        *("fakeowner", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "ocfs2"),
        *("orangefs", "osxfs", "panfs", "pvfs2", "vboxsf", "virtiofs", "vmhgfs"),
        "wekafs",
    )
)
_REMOTE_KINDS: Final = ("fuse", "nfs", "prl_fs", "smb")

#: Types that are gone with their container, or at the next boot.
_PASSING: Final = frozenset({"aufs", "overlay", "ramfs", "tmpfs"})

_LOG: Final = logging.getLogger("persistent_nonce")


class Mount(NamedTuple):
    """A line of mountinfo."""

    id: int
    parent: int
    point: str  # as this process sees it
    type: str


def check_filesystem(
    path: Path, *, implicit: bool, trust: bool, mountinfo: str = "/proc/self/mountinfo"
) -> None:
    """Refuse the database `path` where the guarantees do not hold; nothing is written.

    Its directory need not exist yet. Where there is no mountinfo (not Linux), every place is accepted.

    Args:
        path: the database.
        implicit: nobody chose this place, so it has to outlive containers and reboots by itself.
        trust: take any type of file system, and log a warning instead. A file that is a mount point of its own is
            refused even then: two containers with one database and two lock files got the same nonces.
        mountinfo: what to read; for tests.

    Raises:
        ConfigurationError: the name cannot be used.
        StoreUnsupportedError: the place is refused; the message names type and mount point.
        StoreUnavailableError: mountinfo exists, but cannot be read.
    """
    check_name(path)
    mounts = _read(mountinfo)
    database = os.path.join(os.path.realpath(path.parent), path.name)
    for name in (database, *(database + suffix for suffix in BESIDE)):
        mount = mount_of(name, mounts)
        if mount is not None and mount.point == name:
            raise StoreUnsupportedError(
                f"{name!r:.300} is a mount point itself (type {mount.type!r:.40})",
                "mount the directory that holds the database, not single files",
            )
    mount = mount_of(database, mounts)
    if mount is not None:
        _judge(mount, path, implicit=implicit, trust=trust)


def _judge(mount: Mount, path: Path, *, implicit: bool, trust: bool) -> None:
    """Refuse a type of file system, or log that it is used all the same."""
    if mount.type in _REMOTE or mount.type.startswith(_REMOTE_KINDS):
        fault = "which another machine or kernel serves"
        hint = "move the database to a local disk of this machine"
    elif implicit and mount.type in _PASSING:
        fault = "which is gone with its container or at the next boot"
        hint = (
            "mount a directory that lasts and set PERSISTENT_NONCE_DB to a file in it"
        )
    else:
        return
    found = (
        f"{shown(path)} lies on a file system of type {mount.type!r:.40}, {fault}"
        f" (mounted on {mount.point!r:.300})"
    )
    if not trust:
        raise StoreUnsupportedError(found, hint)
    _LOG.warning("%s; used all the same, as asked for", found)


def _read(mountinfo: str) -> list[Mount]:
    """Return the mounts that the file `mountinfo` lists; none where it does not exist."""
    try:
        with open(mountinfo, "rb") as file:
            return parse_mounts(os.fsdecode(file.read()))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreUnavailableError(
            f"cannot read {mountinfo!r:.300}: {error.strerror}",
            "without it, nobody can tell on which file system the database lies",
        ) from error


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts in the `text` of a mountinfo file, in its order.

    Mount points may hold any other white space than the four signs the kernel escapes, so nothing but single spaces
    and line feeds separates.
    """
    mounts = []
    for line in text.split("\n"):
        fields, _, tail = line.partition(" - ")
        if not tail:
            continue
        number, parent, _, _, point, *_ = fields.split(" ")
        kind = tail.split(" ")[0]
        mounts.append(Mount(int(number), int(parent), _unescape(point), kind))
    return mounts


def _unescape(field: str) -> str:
    """Return a field of mountinfo without its octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount on which the absolute real `path` lies, or None if none of `mounts` holds it.

    Walks down from mount to mount as the kernel does. The longest mount point that begins the path would be wrong
    where a later mount hides an earlier, deeper one.
    """
    known = {mount.id for mount in mounts}
    left = [mount for mount in mounts if _holds(mount, path)]
    found = None
    while True:
        below = [mount for mount in left if _is_child(mount, found, known)]
        if not below:
            return found
        shortest = min(len(mount.point) for mount in below)
        found = [mount for mount in below if len(mount.point) == shortest][-1]
        left.remove(found)


def _holds(mount: Mount, path: str) -> bool:
    """Return whether `path` is the mount's point or lies below it."""
    return path == mount.point or path.startswith(mount.point.rstrip("/") + "/")


def _is_child(mount: Mount, parent: Mount | None, known: set[int]) -> bool:
    """Return whether `mount` is mounted on `parent`; None stands above those whose parent is out of sight."""
    if parent is None:
        return mount.parent not in known or mount.parent == mount.id
    return mount.parent == parent.id
