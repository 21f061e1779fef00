"""A process's proof of life: a kernel lock on a file of its own, held until the process ends.

Whether another session lives is asked by trying its lock: the kernel frees it however the process ended, and
neither a reused pid nor a wrong clock can deceive. Only the lock of the very file counts, whose inode stands in the
name: a backup put back, or a cleaner, leaves its process alive with a lock that nobody else can see. Then the process
is asked after itself, and in doubt it lives (I5, I9).
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeAlias

from filelock import lock_descriptor

from persistent_nonce.clock import SECOND, namespace_offset
from persistent_nonce.errors import StoreUnavailableError

__all__ = [
    "FileSession",
    "directory_of",
    "fate",
    "of_one_process",
    "pid_of",
    "probe",
    "process_state",
    "sweep",
]

#: What became of a session; "unknown" is treated as alive wherever a call may be in flight.
Fate: TypeAlias = Literal["lives", "gone", "unknown"]

_SUFFIX: Final = ".lock"
_RANDOM: Final = 4  # digits before the inode
_START: Final = 19  # of the fields behind the name
_ENDED: Final = ("Z", "X")
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW

#: Clock ticks by which /proc shows start times later than the machine's own, in a time namespace.
_LATER: Final = namespace_offset("boottime") * os.sysconf("SC_CLK_TCK") // SECOND


class FileSession:
    """The session of this process in one store. To be made, and closed, under the store's lock.

    Attributes:
        name: pid, start time in clock ticks since boot, pid namespace (0 where /proc is not its own), and 4 random
            hex digits with the inode of its file behind them.
        live: the ids of this process's calls, waiting or running.
        callers: who has, or waits for, a call: key, thread and task.
    """

    def __init__(self, directory: Path, *, shared: bool) -> None:
        pid = os.getpid()
        start = _start(_stat_fields(pid))
        name = f"{pid}-{start}-{_namespace()}-{secrets.token_hex(_RANDOM // 2)}"
        self.live: set[str] = set()
        self.callers: set[tuple[str, int, int]] = set()
        self._counter = itertools.count(1)
        self._directory = directory
        self._path = directory / (name + _SUFFIX)
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
            self.name = f"{name}{status.st_ino:x}"
            self._path = self._path.rename(directory / (self.name + _SUFFIX))
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
            return fate(self._directory, name) == "gone"
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


def directory_of(database: Path) -> Path:
    """Return the directory of the sessions' files of a database."""
    return database.with_name(database.name + ".sessions")


def pid_of(session: str) -> int:
    """Return the pid in a session's name; 0 if there is none, as in a damaged record of a call, which has no check."""
    pid = session.partition("-")[0]
    return int(pid) if pid.isdecimal() else 0


def of_one_process(one: str, other: str) -> bool:
    """Tell whether two sessions are known to be of one process, which has one for each object that it opened."""
    *process, _ = one.split("-")
    return process == other.split("-")[:-1] and "0" not in process


def process_state(pid: int) -> str:
    """Return what the kernel says of a process in one word: running, sleeping, stopped, gone, unknown."""
    letter = _stat_fields(pid)[:1]
    names = {"R": "running", "S": "sleeping", "D": "sleeping", "T": "stopped"}
    names |= {"t": "stopped", "Z": "gone", "X": "gone", "I": "sleeping"}
    if letter:
        return names.get(letter[0], "unknown")
    return "unknown" if _exists(pid) else "gone"


def probe(database: Path) -> Callable[[str], str]:
    """Return what says of another session in one word how it stands: its process's state, gone, or unknown.

    To be asked of sessions that a row names: one that is being made does not hold its lock yet.
    """
    return partial(_standing, directory_of(database))


def _standing(directory: Path, name: str) -> str:
    try:
        if fate(directory, name) == "gone":
            return "gone"
    except OSError:
        return "unknown"  # not ours to try
    _, _, namespace, _ = name.split("-")
    own = namespace == str(_namespace())
    return process_state(pid_of(name)) if own else "unknown"


def sweep(directory: Path, named: Callable[[str], bool]) -> bool:
    """Remove the files of ended sessions that no row names; return whether a session lives.

    A copy of a file goes too if nobody can tell of its process: without a row it is in no call.

    To be called under the store's lock: a file that is being made is not locked yet.
    """
    lives = False
    for path in directory.glob("*" + _SUFFIX):
        name = path.name.removesuffix(_SUFFIX)
        try:
            found = fate(directory, name)
        except OSError:
            found = "lives"  # not ours to judge
        if found == "lives":
            lives = True
        elif not named(name):
            path.unlink(missing_ok=True)
    return lives


def _let_go(descriptor: int) -> None:
    """Unlock and close: a process forked meanwhile has a copy, which alone would keep a dead session locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def fate(directory: Path, name: str) -> Fate:
    """Return what became of a session: by its lock, or by its process where the file is missing or a copy.

    Raises:
        OSError: the file cannot be tried.
    """
    try:
        descriptor = os.open(directory / (name + _SUFFIX), _FLAGS)
    except FileNotFoundError:
        return _fate_of_process(name)
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return "lives"
        inode = os.fstat(descriptor).st_ino
    finally:
        _let_go(descriptor)
    # As long as the session lives, its inode is in use, so that no other file can have got the same one.
    own = name.rpartition("-")[2][_RANDOM:] == f"{inode:x}"
    return "gone" if own else _fate_of_process(name)


def _fate_of_process(name: str) -> Fate:
    """Return what became of a session by its pid and start time, as its own pid namespace sees them."""
    try:
        number, start, namespace, _ = name.split("-")
        if namespace == "0" or namespace != str(_namespace()):
            return "unknown"
        fields = _stat_fields(int(number))
        if not fields:
            return "unknown" if _exists(int(number)) else "gone"
        # A tick is lost where a time namespace is shifted by a part of one.
        same = abs(_start(fields) - int(start)) <= 1
        return "lives" if same and fields[0] not in _ENDED else "gone"
    except (ValueError, OverflowError):
        return "unknown"


def _exists(pid: int) -> bool:
    """Whether there is a process of this number, also one that /proc hides from us (its option hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _namespace() -> int:
    """Return the pid namespace of this process; 0 if /proc does not tell, or is another namespace's."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return 0
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _start(fields: list[str]) -> int:
    """Return when a process began, in clock ticks since boot (proc(5), field 22); 0 if that is not known."""
    return max(0, int(fields[_START]) - _LATER) if fields else 0


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the name before may hold anything
