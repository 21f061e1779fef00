"""The programs whose power is cut: users of the library, and three controls that show what a cut does.

A program's writers log what they were promised, outside of the disk, before they go on. They run until they are killed.
Its `recover` looks at what the disk has kept, as the first process after the reboot.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Clock, Now
from persistent_nonce.errors import NonceRangeError
from persistent_nonce.gate import CallGate
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import UNITS, Changed, KeyState, fingerprint
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.checker import Log, Operation

__all__ = [
    "FDATASYNC",
    "LIBRARY",
    "MARKS",
    "NORMAL",
    "UNSYNCED",
    "Found",
    "Job",
    "Program",
]

#: The key that all writers share.
SHARED: Final = "shared"

#: Where a key's promises are logged that are no nonces: marks that were set, which every later nonce is to exceed.
MARKS: Final = ".marks"

#: How far an operator's floor lies above the mark, in nanoseconds: beyond the ceiling.
_FLOOR: Final = 20 * SECOND

#: Seconds an operator rests: what it does waits for the disk, and so puts the others' nonces on it too.
_REST: Final = 0.03


class Job(NamedTuple):
    """What a process is to do: on which directory of the disk, by which clock, logging where, under which number."""

    directory: Path
    clock: Clock
    logs: Path
    number: int

    def log(self, key: str) -> Log:
        """Return a log of this process for `key`."""
        directory = self.logs / key
        directory.mkdir(exist_ok=True)
        return Log(directory / f"{self.number}.log")

    def promised(self, key: str, mark: int, call: int) -> None:
        """Log that every later nonce of `key` is greater than `mark`."""
        log = self.log(key + MARKS)
        log.add(Operation(call, time.monotonic_ns(), mark))
        log.close()


class Found(NamedTuple):
    """What the first process after a reboot finds for a key.

    Attributes:
        stored: the mark on the disk; behind what was issued if the cut took commits with it.
        above: no nonce can follow that is not greater than this.
        taken: the last nonce that is used up now.
        refused: the store would not issue.
    """

    stored: int
    above: int
    taken: int
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What is run on the disk.

    Attributes:
        writers: what its processes do, to be dealt out in turn.
        recover: what the first process after a reboot finds for each of the keys.
        database: the SQLite database to be looked at afterwards, if there is one.
    """

    writers: tuple[Callable[[Job], None], ...]
    recover: Callable[[Job, list[str]], dict[str, Found]]
    database: str = ""


# --- the library


def _store(job: Job) -> SQLiteStore:
    return SQLiteStore(job.directory / "nonces.db", timeout=60, clock=job.clock)


def _issue(job: Job) -> None:
    """Take nonces of the shared key as fast as it goes; open the store anew now and then."""
    log = job.log(SHARED)
    while True:
        with _store(job) as store:
            log.draw(NonceProvider(store, SHARED, unit="us"), 2_000)


def _operate(job: Job) -> None:
    """Set what promises to be on the disk when it returns: a floor, a finer unit, the jump after a refused call."""
    with _store(job) as store:
        shared = NonceProvider(store, SHARED, unit="us")
        for turn in itertools.count():
            call, floor = time.monotonic_ns(), shared.last + _FLOOR // UNITS["us"]
            shared.raise_floor(floor)
            job.promised(SHARED, floor, call)
            _change_unit(job, store, f"unit-{job.number}-{turn}")
            _be_refused(job, store, f"refused-{job.number}-{turn}")
            time.sleep(_REST)


def _change_unit(job: Job, store: SQLiteStore, key: str) -> None:
    log, provider = job.log(key), NonceProvider(store, key)
    log.draw(provider, 2)

    def finer(state: KeyState, now: Now) -> Changed:
        return Changed(nonces.set_unit(state, now, "us"))

    call = time.monotonic_ns()
    mark = store.update(fingerprint(key), finer, durable=True).nonce
    job.promised(key, mark, call)
    log.draw(provider, 2)
    log.close()


def _be_refused(job: Job, store: SQLiteStore, key: str) -> None:
    log, gate = job.log(key), CallGate(store, key, min_interval=0)
    call = time.monotonic_ns()
    with gate.call("Balance") as held:
        log.add(Operation(call, time.monotonic_ns(), held.nonce))
        held.settle("invalid_nonce")
    job.promised(key, store.read(fingerprint(key)).nonce, call)
    log.close()


def _recover(job: Job, keys: list[str]) -> dict[str, Found]:
    found = {}
    with _store(job) as store:
        for key in keys:
            stored = store.read(fingerprint(key))
            log, call = job.log(key), time.monotonic_ns()
            try:
                following = NonceProvider(store, key).next()
            except NonceRangeError:
                above = max(stored.nonce, stored.ceiling)
                found[key] = Found(stored.nonce, above, above, refused=True)
            else:
                log.add(Operation(call, time.monotonic_ns(), following))
                found[key] = Found(stored.nonce, following - 1, following)
            log.close()
    return found


#: Users of the library; every fourth process is an operator.
LIBRARY: Final = Program((_issue, _issue, _operate, _issue), _recover, "nonces.db")


# --- the controls


def _number(job: Job, take: Callable[[], int]) -> None:
    """Take numbers under a lock, logging each."""
    log = job.log(SHARED)
    while True:
        call = time.monotonic_ns()
        with _locked(job):
            value = take()
        log.add(Operation(call, time.monotonic_ns(), value))


@contextmanager
def _locked(job: Job) -> Iterator[None]:
    lock = os.open(job.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)  # and with it the lock


def _counter(job: Job) -> sqlite3.Connection:
    path = job.directory / "counter.db"
    with _locked(job):
        connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS counter (value INTEGER)")
    return connection


def _count_normally(job: Job) -> None:
    """Count in a WAL database with synchronous=NORMAL, and nothing else."""
    connection = _counter(job)

    def take() -> int:
        connection.execute("BEGIN IMMEDIATE")
        value = _value(connection) + 1
        connection.execute("DELETE FROM counter")
        connection.execute("INSERT INTO counter VALUES (?)", (value,))
        connection.execute("COMMIT")
        return value

    _number(job, take)


def _value(connection: sqlite3.Connection) -> int:
    query = "SELECT coalesce(max(value), 0) FROM counter"
    return int(connection.execute(query).fetchall()[0][0])


def _recover_normal(job: Job, keys: list[str]) -> dict[str, Found]:
    connection = _counter(job)
    value = _value(connection)
    connection.close()
    return {key: Found(value, value, value) for key in keys}


#: What NORMAL alone is worth: it must lose.
NORMAL: Final = Program((_count_normally,), _recover_normal, "counter.db")


def _count_in_file(job: Job, *, sync: bool) -> None:
    """Count in a file, with or without fdatasync(2) after each number."""
    file = os.open(job.directory / "counter", os.O_RDWR | os.O_CREAT, 0o600)

    def take() -> int:
        value = int(os.pread(file, 20, 0) or b"0") + 1
        os.pwrite(file, b"%020d" % value, 0)
        if sync:
            os.fdatasync(file)
        return value

    _number(job, take)


def _recover_file(job: Job, keys: list[str]) -> dict[str, Found]:
    path = job.directory / "counter"
    # A file whose size is on the disk and whose blocks are not is read as zeros.
    text = path.read_bytes().strip(b"\0") if path.exists() else b""
    value = int(text or b"0")
    return {key: Found(value, value, value) for key in keys}


#: What the disk owes to who asks it each time: it must lose nothing, or the cut is not a fair one.
FDATASYNC: Final = Program((partial(_count_in_file, sync=True),), _recover_file)

#: What it owes to who never asks: it must lose, or nothing was cut.
UNSYNCED: Final = Program((partial(_count_in_file, sync=False),), _recover_file)
