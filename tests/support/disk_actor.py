"""A process that has a database open and does as it is told, so that a test can meddle with the files meanwhile.

The test itself never opens the database with SQLite: closing a file would drop SQLite's locks in its process.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Self, TextIO

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.errors import GateTimeoutError, NonceError, StoreError
from tests.support.disk_ledger import KEYS, Ledger

__all__ = ["Actor", "Crew"]

#: Seconds in which it must answer: a guard.
_GUARD: Final = 60.0


class Actor:
    """One process with the database open; `refused` is how opening it was refused, if it was."""

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._ledger = ledger
        asking, asked = os.pipe()
        telling, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                faulthandler.disable()  # a SIGBUS is told of by the parent
                os.close(asked)
                os.close(telling)
                _serve(path, os.fdopen(asking), os.fdopen(told, "w"))
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.close(asking)
        os.close(told)
        self._asked, self._told = asked, os.fdopen(telling)
        self.refused: list[str] = self._read()

    def take(self, times: int = 1) -> list[str]:
        """Take nonces of every key, which the ledger judges; return the errors."""
        return [error for key in KEYS for error in self.take_of(key, times)]

    def take_of(self, key: str, times: int) -> list[str]:
        """Take nonces of one key; return the errors."""
        return self._ask("take", key, times)

    def begin(self) -> None:
        """Set the keys up far ahead of the clock."""
        assert self._ask("begin") == []

    def call(self) -> list[str]:
        """Make a call with the first key."""
        return self._ask("call")

    def enter(self, timeout: float = 0.2) -> list[str]:
        """Begin a call with the first key, which stays in flight."""
        return self._ask("enter", timeout)

    def wait(self) -> None:
        """Do so, and wait for the turn as long as it takes; `answer` tells what came of it."""
        self._send("enter", _GUARD / 2)

    def answer(self) -> list[str]:
        """Return what came of `wait`."""
        return self._read()

    def leave(self) -> list[str]:
        """End it."""
        return self._ask("leave")

    def checkpoint(self) -> list[str]:
        """Have the log written back."""
        return self._ask("checkpoint")

    def close(self) -> None:
        """Close the database, as far as that is possible, and end."""
        self._ask("close")
        self.kill()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        if not self._told.closed:
            os.close(self._asked)
            self._told.close()

    def _ask(self, *what: object) -> list[str]:
        self._send(*what)
        return self._read()

    def _send(self, *what: object) -> None:
        with suppress(BrokenPipeError):
            os.write(self._asked, f"{json.dumps(what)}\n".encode())

    def _read(self) -> list[str]:
        ready = select.select([self._told], [], [], _GUARD)[0]
        assert ready, "a process hangs"
        line = self._told.readline()
        if not line:
            return [
                "SIGBUS"
            ]  # what the kernel does to who has a file mapped that was cut
        issued, errors = json.loads(line)
        for key, nonce in issued:
            self._ledger.note(key, nonce)
        for kind in errors:
            self._ledger.refused[kind.split(":")[0]] += 1
        assert not [kind for kind in errors if kind.startswith("wrong")], errors
        return list(errors)


class Crew:
    """The actors of a trial, which end with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger()
        self._actors: list[Actor] = []

    def open(self) -> Actor:
        """Start one more."""
        actor = Actor(self.path, self.ledger)
        self._actors.append(actor)
        return actor

    def newcomer(self) -> list[str]:
        """Have one come, take nonces, and go; return how it was refused."""
        actor = self.open()
        errors = actor.refused or actor.take()
        actor.close()
        return errors

    def dismiss(self) -> None:
        """End all by SIGKILL."""
        for actor in self._actors:
            actor.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()


def _serve(path: Path, asked: TextIO, told: TextIO) -> None:
    """Do what is asked, line by line; answer with the nonces that were issued and the errors there were."""
    served: _Served | None = None
    issued: list[tuple[str, int]] = []
    errors: list[str] = []
    question: list[Any] = ["open"]
    while True:
        try:
            if question[0] == "open":
                served = _Served(path, issued, errors)
            elif served is not None:
                getattr(served, question[0])(*question[1:])
        except NonceError as error:
            errors.append(_say(error))
        except BaseException as error:  # noqa: BLE001 - told to the test, which fails
            errors.append(f"wrong {error!r}")
        told.write(f"{json.dumps([issued, errors])}\n")
        told.flush()
        issued.clear()
        errors.clear()
        line = asked.readline()
        if not line:
            return
        question = json.loads(line)


def _say(error: NonceError) -> str:
    if not isinstance(error, StoreError | GateTimeoutError) or not error.hint:
        return f"wrong {error!r}"
    return f"{type(error).__name__}: {error}"


class _Served:
    """What an actor does, in its process."""

    def __init__(
        self, path: Path, issued: list[tuple[str, int]], errors: list[str]
    ) -> None:
        self._issued = issued
        self._errors = errors
        self._calls = ExitStack()
        self._store = SQLiteStore(path)

    def begin(self) -> None:
        """Set the keys up."""
        ledger = Ledger()
        ledger.begin(self._store)
        self._issued += ledger.greatest.items()

    def take(self, key: str, times: int) -> None:
        """Take nonces."""
        provider = NonceProvider(self._store, key)
        for _ in range(times):
            try:
                self._issued.append((key, provider.next()))
            except NonceError as error:
                self._errors.append(_say(error))

    def call(self) -> None:
        """Make a call."""
        self.enter()
        self.leave()

    def enter(self, timeout: float = 0.2) -> None:
        """Begin a call."""
        gate = CallGate(self._store, KEYS[0], min_interval=0.0, timeout=timeout)
        call = self._calls.enter_context(gate.call("Balance"))
        self._issued.append((KEYS[0], call.nonce))

    def leave(self) -> None:
        """End it."""
        self._calls.close()

    def checkpoint(self) -> None:
        """Write the log back, under the lock as the library does."""
        run = self._store._writer.connection.execute
        self._store._hold(lambda: run("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    def close(self) -> None:
        """Close the store."""
        self._store.close()
