"""A process that kills itself before or after the N-th thing it does to the world; all points are found by counting.

The interpreter's profiler tells of each call of a C function and of its return, so that nothing has to be built into
the package for it, and a new system call, a new statement or a new step is a new point by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from asyncio import sleep as pause_of_tasks
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

from persistent_nonce import __file__ as package
from persistent_nonce import steps
from persistent_nonce.stores.lock import StoreLock

__all__ = ["Doom", "forked", "profile"]

#: Seconds after which a child of this module is taken to hang, and ended by its alarm: a guard.
GUARD: Final = 60

_PACKAGE: Final = os.path.dirname(package)

#: The modules whose C functions act on files, locks and the database; whatever else they have is a point too.
_ACTING: Final = frozenset({"posix", "fcntl", "sqlite3", "mmap"})

#: What only looks: killed before or after it, the world is the same.
_LOOKING: Final = frozenset(
    """access fspath fstat getegid geteuid getpid listdir lstat readlink scandir stat __fspath__ fetchall cursor urandom
    get_inheritable WIFSIGNALED _path_normpath __exit__""".split()  # noqa: SIM905 - as a list it would fill a page
)

#: What is a point although it is Python: the steps of procedures on threads and tasks, and the way through the lock,
#: behind which a nonce is handed out.
_WAYS: Final[dict[CodeType, str]] = {
    steps._perform.__code__: "step",
    steps._make.__code__: "step of a task",
    pause_of_tasks.__code__: "pause of a task",
    StoreLock.hold.__code__: "lock",
}


def profile() -> str:
    """Return how much the tests of this run are to try: dev, ci or deep."""
    return os.environ.get("HYPOTHESIS_PROFILE") or "dev"


class Doom:
    """Count what this process does to the world, and die at the point of a number.

    Args:
        number: of the point, from 1.
        tell: called with "point" and its name just before the end; after a survival, with "census" and each one's name.
    """

    def __init__(self, number: int, tell: Callable[[str], None]) -> None:
        self._number = number
        self._tell = tell
        self._passed: list[str] = []

    def __enter__(self) -> None:
        threading.setprofile(self._look)
        sys.setprofile(self._look)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        for point in self._passed:
            self._tell(f"census {point}")

    def _look(self, frame: FrameType, event: str, function: Any) -> None:
        in_c = event in ("c_call", "c_return", "c_exception")
        what = _acts(function) if in_c else _WAYS.get(frame.f_code, "")
        if what and (way := _way(frame)):
            moment = "before" if event in ("c_call", "call") else "after"
            self._pass(f"{moment} {way} {what}")

    def _pass(self, point: str) -> None:
        self._passed.append(point)
        if len(self._passed) == self._number:
            self._tell(f"point {point}")
            os.kill(os.getpid(), signal.SIGKILL)


def _acts(function: Any) -> str:
    """Return the name of a C function if it may change something outside this process."""
    name: str = function.__name__
    if name in _LOOKING:
        return ""
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None) or type(owner).__module__
    return name if module in _ACTING else ""


def _way(frame: FrameType | None) -> str:
    """Return through which functions of the package a point is reached, the last four; empty if through none."""
    names: list[str] = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "/".join(reversed(names[:4]))


def forked(work: Callable[[Callable[[str], None]], object]) -> tuple[list[str], bool]:
    """Do `work` in a forked child; return the lines it told, and whether it was killed on its way.

    A child that comes to its end is killed too, so that nothing of this process is ended or written twice in it.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        write = os.write

        def tell(line: str) -> None:
            write(writing, f"{line}\n".encode())

        try:
            signal.alarm(GUARD)
            os.close(reading)
            work(tell)
            tell("end")
        except BaseException as error:  # noqa: BLE001 - a child must not go on as its parent
            tell(f"error {type(error).__name__}: {error}")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()  # to its end, which is the child's
    _, status = os.waitpid(pid, 0)
    if os.WTERMSIG(status) == signal.SIGALRM:
        lines.append(f"error: it hung for {GUARD} s")
    ended = bool(lines) and lines[-1].split()[0] in ("end", "error", "error:")
    return lines, not ended
