"""A forked child of the test's own process."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

from tests.support.processes import GUARD

__all__ = ["Fork"]


class Fork:
    """A forked child of the test's process that does `work`, and what it wrote."""

    def __init__(
        self, work: Callable[[], object], *, fork: Callable[[], int] = os.fork
    ) -> None:
        self._output, write = os.pipe()
        self.pid = fork()
        if self.pid == 0:
            try:
                os.write(write, f"{work()}".encode())
            except BaseException as error:  # noqa: BLE001 - told to the test
                os.write(write, type(error).__name__.encode())
            finally:
                os._exit(0)
        os.close(write)

    def said(self) -> str:
        """Return what `work` returned, or the name of its error; the child has ended then, or is killed."""
        ready, _, _ = select.select([self._output], [], [], GUARD)
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
        found = b""
        while part := os.read(self._output, 65_536):
            found += part
        os.close(self._output)
        os.waitpid(self.pid, 0)
        assert ready, f"child {self.pid} hung"
        return found.decode()
