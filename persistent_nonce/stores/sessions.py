"""A process's proof of life: a kernel lock on a file of its own, held until the process ends.

Whether another session lives is asked by trying its lock: the kernel frees it however the process ended, and
neither a reused pid nor a wrong clock can deceive.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from filelock import lock_descriptor

from persistent_nonce.errors import StoreUnavailableError

__all__ = ["FileSession", "pid_of", "process_state", "standing", "sweep"]

_SUFFIX: Final = ".lock"
_START: Final = 19  # of the fields behind the name
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class FileSession:
    """The session of this process in one store. To be made, and closed, under the store's lock.

    Attributes:
        name: pid, start time in clock ticks since boot, pid namespace, and 8 random hex digits.
        live: the ids of this process's calls, waiting or running.
        callers: who has, or waits for, a call: key, thread and task.
    """

    def __init__(self, directory: Path, *, shared: bool) -> None:
        pid = os.getpid()
        self.name = f"{pid}-{_start(pid)}-{_namespace()}-{secrets.token_hex(4)}"
        self.live: set[str] = set()
        self.callers: set[tuple[str, int, int]] = set()
        self._counter = itertools.count(1)
        self._directory = directory
        self._path = directory / (self.name + _SUFFIX)
        mode = 0o660 if shared else 0o600
        self._descriptor = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.fchmod(self._descriptor, mode)  # whatever the umask
            if not lock_descriptor(self._descriptor, blocking=False):
                raise StoreUnavailableError(
                    f"another program locked {self._path} at once; no nonce was issued",
                    "run: persistent-nonce doctor",
                )
            status = os.fstat(self._descriptor)
        except BaseException:
            self.abandon()
            raise
        self._identity = (status.st_dev, status.st_ino)

    def new_id(self) -> str:
        """Return an id that no other call has: the session's name and a counter."""
        return f"{self.name}:{next(self._counter)}"

    def intact(self) -> bool:
        """Whether the file that others would try is still the one this session has locked."""
        try:
            status = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def dead(self, names: Collection[str]) -> frozenset[str]:
        """Return those of the sessions `names` that have ended."""
        return frozenset(
            name for name in names if name != self.name and self._is_dead(name)
        )

    def _is_dead(self, name: str) -> bool:
        try:
            return _has_ended(self._directory, name)
        except OSError:
            return False  # nobody can tell now

    def abandon(self) -> None:
        """Give up what was inherited over fork; as long as a copy is open the parent would seem to live."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def close(self, *, named: bool) -> None:
        """End the session; its file goes too unless a row still names it."""
        if not named and self.intact():
            self._path.unlink()
        self.abandon()


def pid_of(session: str) -> int:
    """Return the pid in a session's name."""
    return int(session.split("-", 1)[0])


def process_state(pid: int) -> str:
    """Return what the kernel says of a process in one word: running, sleeping, stopped, gone, unknown."""
    letter = _stat_fields(pid)[:1]
    names = {"R": "running", "S": "sleeping", "D": "sleeping", "T": "stopped"}
    names |= {"t": "stopped", "Z": "gone", "X": "gone", "I": "sleeping"}
    return names.get(letter[0], "unknown") if letter else "gone"


def standing(directory: Path, name: str) -> str:
    """Return what can be said of another session in one word: its process's state, gone, or unknown.

    To be asked of sessions that a row names: one that is being made does not hold its lock yet.
    """
    try:
        if _has_ended(directory, name):
            return "gone"
    except OSError:
        return "unknown"  # not ours to try
    _, _, namespace, _ = name.split("-")
    own = namespace == str(_namespace())
    return process_state(pid_of(name)) if own else "unknown"


def sweep(directory: Path, named: Callable[[str], bool]) -> bool:
    """Remove the files of ended sessions that no row names; return whether a session lives.

    To be called under the store's lock: a file that is being made is not locked yet.
    """
    lives = False
    for path in directory.glob("*" + _SUFFIX):
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError:
            lives = True  # not ours to judge
            continue
        try:
            if not lock_descriptor(descriptor, blocking=False):
                lives = True
            elif not named(path.name.removesuffix(_SUFFIX)):
                path.unlink()
        finally:
            _let_go(descriptor)
    return lives


def _let_go(descriptor: int) -> None:
    """Unlock and close: a process forked meanwhile has a copy, which alone would keep a dead session locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _has_ended(directory: Path, name: str) -> bool:
    """Whether the lock of a session can be had; without its file, whether its process is gone."""
    try:
        descriptor = os.open(directory / (name + _SUFFIX), _FLAGS)
    except FileNotFoundError:
        return _is_gone(name)
    try:
        return lock_descriptor(descriptor, blocking=False)
    finally:
        _let_go(descriptor)


def _is_gone(name: str) -> bool:
    """Whether a session without a file has ended: its process is gone, as its own pid namespace sees it."""
    try:
        pid, start, namespace, _ = name.split("-")
    except ValueError:
        return False
    if namespace != str(_namespace()):
        return False
    return _start(int(pid)) != int(start)


def _namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _start(pid: int) -> int:
    """Return when a process began, in clock ticks since boot (proc(5), field 22); 0 if it is gone."""
    fields = _stat_fields(pid)
    return int(fields[_START]) if fields and fields[0] not in "ZX" else 0


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name before may hold anything
