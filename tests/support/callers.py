"""Processes that pass a gate at a test's command, and the book that they keep of their calls beside it."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from persistent_nonce import CallGate, NonceError, NonceProvider, SQLiteStore
from persistent_nonce.clock import SystemClock
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.state import Changed
from persistent_nonce.stores.sessions import process_state
from tests.support.processes import Children
from tests.support.workers import KEY, say

__all__ = [
    "GUARD",
    "Book",
    "Caller",
    "Nameless",
    "Refused",
    "Steady",
    "Visit",
    "line_up",
    "nothing_begins_beside",
    "pass_through",
    "queued",
    "until",
    "work",
]

#: Seconds after which a test gives up: a guard, more than ten times what the library promises.
GUARD: Final = 30.0


def until(true: Callable[[], bool], what: str) -> None:
    """Wait until `true()`, looking often."""
    deadline = time.monotonic() + GUARD
    while not true():
        assert time.monotonic() < deadline, f"waited {GUARD:g} s for: {what}"
        time.sleep(0.002)


class Steady(SystemClock):
    """The machine's clock, but its wall clock never steps: it is CLOCK_MONOTONIC, counted from `begin` ns."""

    def __init__(self, begin: int) -> None:
        self._begin = begin

    def wall(self) -> int:
        """Return nanoseconds since 1970."""
        return self._begin + time.monotonic_ns()


class Nameless(SystemClock):
    """The machine's clock, on a system that does not tell its boot."""

    def boot(self) -> str | None:
        """Return no boot."""
        return None


# --- one call at a time, at a test's command


def serve(path: str, nameless: bool = False) -> None:
    """Make the calls that are asked for, a line each; in a call, wait for another line to end it."""
    clock = Nameless() if nameless else SystemClock()
    gate = CallGate(SQLiteStore(path, clock=clock), KEY, min_interval=0.0)
    say("ready")
    for line in sys.stdin:
        method, options = json.loads(line)
        try:
            with gate.call(method, **options) as call:
                say(json.dumps(call.nonce))
                sys.stdin.readline()
            say('"out"')
        except NonceError as error:
            say(json.dumps([type(error).__name__, str(error)]))


class Refused(NamedTuple):
    """An error of ours in another process."""

    error: str
    text: str


class Caller:
    """A process with one call at a time, which begins and ends when the test says so.

    Args:
        nameless: whether its clock does not tell the boot.
    """

    def __init__(
        self, children: Children, path: Path, *, nameless: bool = False
    ) -> None:
        self._child = children.call(serve, path, nameless)
        self.pid = self._child.pid
        self._child.wait_for("ready")

    def ask(self, method: str, **options: Any) -> None:
        """Let the process want a call."""
        self._child.tell(json.dumps([method, options]))

    def answer(self) -> Any:
        """Return what the process says next: the nonce of the call it is in, "out", or an error of ours."""
        said = json.loads(self._child.line())
        return Refused(*said) if isinstance(said, list) else said

    def enter_or_not(self, method: str, **options: Any) -> Any:
        """Have a call wanted, and return its nonce, or the error of ours that it ended in."""
        self.ask(method, **options)
        return self.answer()

    def enter(self, method: str, **options: Any) -> int:
        """Have a call begun, and return its nonce."""
        self.ask(method, **options)
        nonce = self.answer()
        assert isinstance(nonce, int), nonce
        return nonce

    def leave(self) -> None:
        """Let the call end."""
        self._child.tell()
        assert self.answer() == "out"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; SIGSTOP and SIGKILL have had their effect when this returns."""
        self._child.kill(number)
        if number == signal.SIGSTOP:
            until(lambda: process_state(self.pid) == "stopped", "the process to stop")


def nothing_begins_beside(
    holder: Caller, nonce: int, store: SQLiteStore, *, saying: str
) -> None:
    """Check that `store` refuses calls and nonces until the holder's call, of that nonce, has ended well."""
    gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
    for use in (gate.call("Balance").__enter__, NonceProvider(store, KEY).next):
        with pytest.raises(StoreUnavailableError, match=saying):
            use()
    running = store.read(gate.key).running
    assert running is not None
    assert running.nonce == nonce
    holder.leave()
    with gate.call("Balance") as call:
        assert call.nonce > nonce
    assert {record.outcome for record in store.calls()} == {"ok"}


# --- many calls, and a book of them


def queued(store: SQLiteStore, gate: CallGate, pid: int) -> bool:
    """Whether a call of that process waits."""
    queue = store.read(gate.key).queue
    return any(call.session.startswith(f"{pid}-") for call in queue)


def line_up(store: SQLiteStore, gate: CallGate, *callers: Caller) -> None:
    """Have each caller want a call, the next once the one before has its place in the queue."""
    for caller in callers:
        caller.ask("Balance")
        until(partial(queued, store, gate, caller.pid), "a place in the queue")
    pass_through(store, gate)


def pass_through(store: SQLiteStore, gate: CallGate) -> None:
    """Wait until whoever has just changed the state has left the store: stopped in it, it would hold up all."""
    store.update(gate.key, lambda state, _: Changed(state))


class Visit(NamedTuple):
    """A call as its caller saw it; times are CLOCK_MONOTONIC in ns."""

    pid: int
    nonce: int
    wanted: int
    entered: int
    left: int  # 0: it never left


class Book:
    """Who was in a call when, written down by the callers themselves, not by the library.

    A lock of the kernel, which is tried and never waited for, tells of two at once; times tell of it once more.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def visit(self, nonce: int, wanted: int) -> Iterator[None]:
        """Write down that a call is in flight, and that it has ended."""
        who = f"{os.getpid()} {nonce} {wanted}"
        with open(f"{self.path}.canary", "w") as canary:
            try:
                fcntl.flock(canary, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._write(f"overlap {who} 0\n")
            self._write(f"enter {who} {time.monotonic_ns()}\n")
            try:
                yield
            finally:
                self._write(f"leave {who} {time.monotonic_ns()}\n")

    def _write(self, line: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[str]:
        """Return what was written so far."""
        return self.path.read_text().splitlines() if self.path.exists() else []

    def visits(self) -> list[Visit]:
        """Return all calls in the order they began, having checked that no two were in flight at once (I5)."""
        found: dict[int, Visit] = {}
        for line in self.lines():
            event, *numbers = line.split()
            pid, nonce, wanted, at = map(int, numbers)
            assert event != "overlap", f"two in flight: {line}"
            if event == "enter":
                assert nonce not in found, f"nonce {nonce} twice"
                found[nonce] = Visit(pid, nonce, wanted, at, 0)
            else:
                found[nonce] = found[nonce]._replace(left=at)
        visits = sorted(found.values(), key=lambda visit: visit.entered)
        for one, next_ in itertools.pairwise(visits):
            assert one.left <= next_.entered, f"two in flight: {one} and {next_}"
            assert one.nonce < next_.nonce, f"out of order: {one} and {next_}"
        return visits


def work(path: str, book: str, calls: int, seconds: float, settings: Any) -> None:
    """Make `calls` calls of `seconds` each and write them down.

    The settings are a gate's, but for `begin`, of a steady clock, and `durable`, of the calls.
    """
    begin, durable = settings.pop("begin", None), settings.pop("durable", False)
    clock = SystemClock() if begin is None else Steady(begin)
    with SQLiteStore(path, clock=clock, timeout=60) as store:
        gate = CallGate(store, KEY, **settings)
        for _ in range(calls):
            wanted = time.monotonic_ns()
            with (
                gate.call("Balance", durable=durable) as call,
                Book(Path(book)).visit(call.nonce, wanted),
            ):
                time.sleep(seconds)
