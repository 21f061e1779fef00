"""What the child processes of the tests of faults do with a store: many threads, many keys, checkpoints, calls."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from persistent_nonce import CallGate, SQLiteStore, StoreError, nonces
from persistent_nonce.clock import Now
from persistent_nonce.errors import StoreReplacedError, StoreRolledBackError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState
from tests.support.callers import Book
from tests.support.checker import Log, Operation
from tests.support.clocks import StillWall
from tests.support.workers import KEY, say

__all__ = [
    "call_until",
    "checkpoint_on",
    "contend",
    "draw_and_reopen",
    "draw_beside",
    "reach_in",
]


def contend(path: str, logs: str, threads: int, keys: int, count: int) -> None:
    """Take `count` nonces of each of `keys` keys on each of `threads` threads, by a clock that stands still.

    Each thread writes a log for each key, in the directory of that key.
    """
    with SQLiteStore(path, timeout=60, clock=StillWall()) as store:
        say("ready")
        sys.stdin.readline()

        def work(thread: int) -> None:
            for step in range(keys):
                key = (thread + step) % keys  # different keys at a time
                log = Log(Path(logs) / str(key) / f"{os.getpid()}-{thread}.log")
                log.draw(
                    NonceProvider(store, f"key {key}", unit="ns"), count, plain=True
                )
                log.close()

        with ThreadPoolExecutor(threads) as pool:
            for end in [pool.submit(work, number) for number in range(threads)]:
                end.result()


def draw_and_reopen(path: str, log: str, seconds: float) -> None:
    """Take nonces for so long, by a clock that stands still, opening the store anew now and then."""
    writer, end = Log(Path(log)), time.monotonic() + seconds
    while time.monotonic() < end:
        with SQLiteStore(path, timeout=60, clock=StillWall()) as store:
            provider = NonceProvider(store, KEY, unit="ns")
            for _ in range(4):
                writer.draw(provider, 25, plain=True)


def draw_beside(path: str, log: str, seconds: float) -> str:
    """Do the same until refused, and return the error then."""
    try:
        draw_and_reopen(path, log, seconds)
    except StoreError as error:
        return type(error).__name__
    return ""


def checkpoint_on(path: str, seconds: float) -> int:
    """Write the log of the database back under the store's lock for so long; return how often that was done."""
    end, done = time.monotonic() + seconds, 0
    with SQLiteStore(path, timeout=60, clock=StillWall()) as store:

        def write_back() -> bool:
            how = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[done % 4]
            query = f"PRAGMA wal_checkpoint({how})"
            return not store._writer.connection.execute(query).fetchall()[0][0]

        while time.monotonic() < end:
            done += store._hold(write_back)
    return done


def call_until(path: str, book: str, seconds: float, length: float) -> dict[str, Any]:
    """Make calls of `length` seconds, once told to begin, for so long; return how many, and the longest wait."""
    with SQLiteStore(path, timeout=60) as store:
        gate = CallGate(store, KEY, min_interval=0.0, unit="ns", timeout=600)
        notes = Book(Path(book))
        say("ready")
        sys.stdin.readline()
        end, calls, longest = time.monotonic() + seconds, 0, 0.0
        while (wanted := time.monotonic()) < end:
            with gate.call("Balance") as call:
                longest = max(longest, time.monotonic() - wanted)
                calls += 1
                with notes.visit(call.nonce, round(wanted * 1e9)):
                    time.sleep(length)
    return {"calls": calls, "longest": longest}


def reach_in(path: str, log: str, how: str, rounds: int) -> dict[str, Any]:
    """Meddle with a database, or fork, in the middle of transactions of this very process.

    Returns:
        when each of these transactions began and ended, the names of the errors they ended with, and whether this
        process could do all of them.
    """
    held: list[tuple[int, int]] = []
    errors: list[str] = []
    whole = False
    writer, store = Log(Path(log)), SQLiteStore(path, timeout=60, clock=StillWall())
    provider = NonceProvider(store, KEY, unit="ns")
    writer.draw(provider, 1, plain=True)

    def change(state: KeyState, now: Now) -> Changed:
        begin = time.monotonic_ns()
        meddle(path, how)
        time.sleep(0.005)  # for the others to try
        held.append((begin, time.monotonic_ns()))
        return Changed(nonces.issue(state, now))

    for _ in range(rounds):
        try:
            call = time.monotonic_ns()
            value = store.update(provider.key, change).nonce
            writer.add(Operation(call, time.monotonic_ns(), value))
        except StoreReplacedError as error:
            errors.append(type(error).__name__)
            store.close()
            try:
                store = SQLiteStore(path, timeout=60, clock=StillWall())
            except StoreReplacedError:
                break  # this process still has the dead file: it is told to start anew
        except StoreRolledBackError as error:
            errors.append(type(error).__name__)
            break  # until somebody has run `recover`
    else:
        whole = True
    store.close()
    return {"held": held, "errors": errors, "whole": whole}


def meddle(path: str, how: str) -> None:
    """Open and close a database beside the library, in a process that has it open; or fork."""
    if how == "fork":
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        return
    if how == "files":
        for suffix in ("", "-wal", "-shm", ".lock"):
            open(path + suffix, "rb").close()
        return
    import apsw  # noqa: PLC0415 - a second SQLite, which no other worker needs

    connection = apsw.Connection(path)
    connection.execute("SELECT count(*) FROM keys").fetchall()
    connection.close()
