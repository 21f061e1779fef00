"""A program that forks where no page is wiped, and whose children are interrupted at once.

It reserves nonces; at the end of each reservation, behind the transaction, a signal handler would have its place: there
it forks. It tells how many nonces its children have returned, and how many are wrong.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.forking import report

FORKS = 20

#: Not Python's own, which would run the handler at once.
_interrupt = partial(ctypes.CDLL(None)["raise"], int(signal.SIGINT))
_register: Callable[..., None] = os.register_at_fork


class _OldKernels(mmap.mmap):
    """A mapping of a system that cannot wipe it on fork."""

    def madvise(self, *_: int) -> None:
        """Refuse."""
        raise OSError


def _interrupted(**hooks: Any) -> None:
    """Register hooks of which one in Python is interrupted as it begins, in the child."""
    of = getattr(hooks.get("after_in_child"), "__module__", None)
    if of == "persistent_nonce.leases":
        _register(after_in_child=_interrupt)
    _register(**hooks)


os.register_at_fork = _interrupted
mmap.mmap = _OldKernels  # type: ignore[misc] # on purpose
from persistent_nonce import NonceProvider, SQLiteStore, leases  # noqa: E402 - as changed

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever has started this
sys.unraisablehook = lambda _: None  # what CPython says of the hook that was ended
output, write = os.pipe()
children: list[int] = []
drawn: list[int] = []


def fork_and_make(*arguments: int) -> range:
    """Copy this process, and return the range on both sides."""
    del leases.range  # type: ignore[attr-defined] # set below
    children.append(os.fork())
    return range(*arguments)


provider = NonceProvider(SQLiteStore(sys.argv[1]), "key", unit="ns")
for _ in range(FORKS):
    leases.range = fork_and_make  # type: ignore[attr-defined] # the built-in is meant
    taken = provider.reserve(3)
    if not children[-1]:
        os.write(write, "".join(f"{nonce}\n" for nonce in taken).encode())
        os._exit(0)
    drawn += taken
os.close(write)
report(children, output, drawn)
