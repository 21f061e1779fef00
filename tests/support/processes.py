"""Real child processes for tests: started from a function or a script, talked to by lines, and always reaped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["GUARD", "Child", "Children", "begin", "descriptors", "soak"]

#: Seconds after which a test gives up on a child. A guard for a hung one, many times what a slow machine needs.
GUARD: Final = 90.0

_ROOT: Final = Path(__file__).parents[2]

_CALL: Final = (
    "import importlib, json, sys\n"
    "module, name, arguments = json.loads(sys.argv[1])\n"
    "result = getattr(importlib.import_module(module), name)(*arguments)\n"
    "print('\\0' + json.dumps(result), flush=True)\n"
)


class Child:
    """A child process; its standard output is read line by line."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # so that what it forked is ended with it
        )
        self._read = b""
        self.pid = self._process.pid

    def line(self) -> str:
        """Return the next line of its output, or "" at the end."""
        output = self._process.stdout
        assert output is not None
        deadline = time.monotonic() + GUARD
        while b"\n" not in self._read:
            left = deadline - time.monotonic()
            if not select.select([output], [], [], max(0.0, left))[0]:
                raise TimeoutError(f"no line of child {self.pid} within the guard")
            more = os.read(output.fileno(), 65_536)
            if not more:
                break
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def wait_for(self, word: str) -> None:
        """Wait until it has written the line `word`."""
        while (line := self.line()) != word:
            if not line:
                raise EOFError(f"child {self.pid} ended before it wrote {word!r}")

    def tell(self, line: str = "") -> None:
        """Write a line to its standard input."""
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(f"{line}\n".encode())
        pipe.flush()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, SIGKILL unless told, and wait for the end unless it is to go on."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(GUARD)

    def end(self) -> int:
        """Wait for its end and return its exit status."""
        return self._process.wait(GUARD)

    def result(self) -> Any:
        """Wait for its end and return what its function returned."""
        result = None
        while line := self.line():
            if line.startswith("\0"):
                result = json.loads(line[1:])
        status = self.end()
        if status:
            raise ChildProcessError(f"child {self.pid} ended with status {status}")
        return result

    def reap(self) -> None:
        """End it, with all that it forked, however it stands."""
        with suppress(ProcessLookupError):  # nothing may be left of it
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(GUARD)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Children:
    """The child processes of a test, reaped at its end.

    Args:
        inside: a command that runs the one behind it, elsewhere.
    """

    def __init__(self, *inside: str) -> None:
        self._inside = inside
        self._children: list[Child] = []

    def call(self, function: Callable[..., object], *arguments: object) -> Child:
        """Start a fresh interpreter that calls `function`, of an importable module; all goes through JSON."""
        what = [function.__module__, function.__name__, [_plain(a) for a in arguments]]
        return self._start(["-c", _CALL, json.dumps(what)])

    def script(self, source: str, *arguments: object) -> Child:
        """Start a fresh interpreter that runs `source`."""
        return self._start(["-c", source, *map(str, arguments)])

    def _start(self, arguments: list[str]) -> Child:
        command = [*self._inside, sys.executable, *arguments]
        child = Child(command, dict(os.environ))
        self._children.append(child)
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.reap()


def begin(children: Sequence[Child]) -> None:
    """Let all of them begin at once, when each has said that it is ready."""
    for child in children:
        child.wait_for("ready")
    for child in children:
        child.tell()


def _plain(argument: object) -> object:
    return str(argument) if isinstance(argument, Path) else argument


def descriptors() -> int:
    """Return how many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def soak(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `scripts/soak.py` with its files in `directory`, and return how it ended."""
    command = [sys.executable, str(_ROOT / "scripts/soak.py"), *arguments]
    return subprocess.run(
        [*command, f"--directory={directory}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
