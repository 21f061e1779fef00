"""A disk whose power can be cut: a file system in a file, shut down by the kernel without a flush, mounted again."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final, Self

__all__ = ["Disk", "die_with_parent", "enter_private_mounts", "missing"]

#: FS_IOC_SHUTDOWN of ext4, FS_IOC_GOINGDOWN of XFS; with 2 neither flushes its log: what was not synced is gone.
_SHUTDOWN: Final = 0x8004587D
_NO_LOG_FLUSH: Final = struct.pack("I", 2)

#: The least that mkfs takes, with room for the writers of a test.
_SIZE: Final = {"ext4": 64 << 20, "xfs": 320 << 20}

#: CLONE_NEWNS of unshare(2), and PR_SET_PDEATHSIG of prctl(2).
_MOUNTS: Final = 0x0002_0000
_PARENTS_DEATH: Final = 1

#: Seconds after which an unmount is given up: a guard.
_GUARD: Final = 60.0


class Disk:
    """A file system of the kind "ext4" or "xfs" on a loop device; `root` is where it is mounted.

    The loop device is freed by its unmount, and that by the end of the mount namespace at the latest, however the
    process ended: see `enter_private_mounts`.
    """

    def __init__(self, directory: Path, kind: str = "ext4") -> None:
        self.root = directory / "mount"
        self._image = directory / "image"
        self._kind = kind
        self._mounted = False

    def __enter__(self) -> Self:
        self.root.mkdir()
        self._image.touch()
        os.truncate(self._image, _SIZE[self._kind])
        try:
            _run(f"mkfs.{self._kind}", "-q", self._image)
            self._mount()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._mounted:
                self._unmount()
        finally:
            self._remove()

    def cut(self) -> None:
        """Cut the power: from here on nothing reaches the disk."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Mount what the disk has kept. Nobody may have a file of it open."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", self._image, self.root)
        self._mounted = True

    def _unmount(self) -> None:
        deadline = time.monotonic() + _GUARD
        while True:
            try:
                _run("umount", self.root)
            except OSError:  # the kernel may not have let go of a killed process yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                self._mounted = False
                return

    def _remove(self) -> None:
        self._image.unlink(missing_ok=True)
        self.root.rmdir()


def enter_private_mounts() -> None:
    """Give this process mounts of its own, which the kernel undoes at its end, also after a SIGKILL."""
    if ctypes.CDLL(None, use_errno=True).unshare(_MOUNTS):
        raise OSError(ctypes.get_errno(), "unshare")
    _run("mount", "--make-rprivate", "/")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends: it would keep the mounts, and write for ever."""
    ctypes.CDLL(None).prctl(_PARENTS_DEATH, signal.SIGKILL)


def missing(kind: str = "ext4") -> str:
    """Return what this machine lacks for a Disk, "" if nothing; only trying it tells, so it is done in a subprocess."""
    if os.geteuid() != 0:
        return "only root can mount a loop device"
    for tool in (f"mkfs.{kind}", "mount", "unshare", "losetup"):
        if not shutil.which(tool):
            return f"there is no {tool}"
    # Containers and small kernels may have the tools and nothing behind them.
    trial = (
        'truncate -s 320M "$1/image" && mkfs."$2" -q "$1/image" && mkdir "$1/mount" '
        '&& mount -o loop "$1/image" "$1/mount"'
    )
    with tempfile.TemporaryDirectory(prefix="power-") as directory:
        try:
            _run("unshare", "-m", "sh", "-ec", trial, "trial", directory, kind)
        except OSError as error:
            return f"no loop device can be mounted: {error}"
    return ""


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout
