"""What people use for a nonce, each as it is usually written: the contestants beside this library."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import filelock
from _bench_table import Contestant, Operation, always

__all__ = [
    "COMMIT",
    "MEMORY",
    "Drawer",
    "Generator",
    "GeneratorOfMs",
    "others",
    "wal_commit",
]

MEMORY: Final = "in-memory generator"
COMMIT: Final = "a bare WAL commit"

#: Seconds for which a server is waited for.
_GUARD: Final = 10.0


class Drawer(Protocol):
    """What hands out nonces."""

    def next(self) -> int:
        """Return the next one."""


class Generator:
    """Nonces from memory, in ns: no other process, no restart."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        """Return the clock's reading, or one more than the last."""
        with self._lock:
            self._last = max(time.time_ns(), self._last + 1)
            return self._last


class GeneratorOfMs(Generator):
    """The same in ms."""

    def next(self) -> int:
        """Return the clock's reading, or one more than the last."""
        with self._lock:
            self._last = max(int(time.time() * 1000), self._last + 1)
            return self._last


def wal_commit(path: Path, stack: ExitStack) -> Operation:
    """Return one update of one row in a WAL database on a kept connection: the least that a kept number costs."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    stack.callback(connection.close)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE counter (value INTEGER)")
    connection.execute("INSERT INTO counter VALUES (0)")
    return lambda: connection.execute("UPDATE counter SET value = value + 1")


def _flock(path: Path, stack: ExitStack) -> Operation:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    stack.callback(os.close, descriptor)

    def lock() -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    return lock


def _locked_commit(path: Path, stack: ExitStack) -> Operation:
    commit, lock = wal_commit(path, stack), filelock.FileLock(f"{path}.lock")

    def locked() -> None:
        with lock:
            commit()

    return locked


def _diskcache(path: Path, stack: ExitStack) -> Operation:
    import diskcache  # noqa: PLC0415 - one of the comparison's own packages

    cache = stack.enter_context(diskcache.Cache(str(path)))
    return lambda: cache.incr("nonce")


def _bucket(path: Path, stack: ExitStack) -> Operation:
    from pyrate_limiter import (  # noqa: PLC0415 - one of the comparison's own packages
        Rate,
        RateItem,
        SQLiteBucket,
    )

    limits = [Rate(1_000_000, 1000)]
    bucket = SQLiteBucket.init_from_file(limits, db_path=str(path), use_file_lock=True)
    stack.callback(bucket.close)
    return lambda: bucket.put(RateItem("nonce", time.time_ns() // 1_000_000))


def _portalocker(path: Path, stack: ExitStack) -> Operation:
    del stack  # the file is opened for each
    import portalocker  # noqa: PLC0415 - one of the comparison's own packages

    path.write_text("0", "ascii")

    def count() -> None:
        with portalocker.Lock(str(path), "r+") as file:
            value = int(file.read()) + 1
            file.seek(0)
            file.write(str(value))

    return count


def _redis(path: Path, stack: ExitStack) -> Operation:
    import redis  # noqa: PLC0415 - one of the comparison's own packages
    from redis.backoff import NoBackoff  # noqa: PLC0415 - as above, of it
    from redis.retry import Retry  # noqa: PLC0415 - as above, of it

    client: Any
    once = Retry(NoBackoff(), 0)
    if program := shutil.which("redis-server") or shutil.which("valkey-server"):
        where = str(path.parent)
        settings = f"--port 0 --unixsocket {path.name} --appendonly yes --dir {where}"
        server = subprocess.Popen(  # noqa: S603 - of this script's own words
            [program, *settings.split()], cwd=where, stdout=subprocess.DEVNULL
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        client = redis.Redis(unix_socket_path=str(path), retry=once)
    else:
        client = redis.Redis(socket_connect_timeout=0.5, retry=once)
    stack.callback(client.close)
    name = f"persistent_nonce {os.getpid()}"
    deadline = time.monotonic() + (_GUARD if program else 0.0)
    while True:
        try:
            client.incr(name)
            break
        except redis.ConnectionError as error:
            if time.monotonic() >= deadline:
                raise LookupError("no redis-server, and none answers") from error
            time.sleep(0.02)
    stack.callback(client.delete, name)
    return lambda: client.incr(name)


_MAKERS: Final[dict[str, tuple[str, Callable[[Path, ExitStack], Operation]]]] = {
    COMMIT: ("sqlite3", wal_commit),
    "flock alone": ("fcntl", _flock),
    "FileLock + SQLite": ("filelock", _locked_commit),
    "diskcache incr": ("diskcache", _diskcache),
    "pyrate-limiter, SQLite bucket": ("pyrate_limiter", _bucket),
    "portalocker, number in a file": ("portalocker", _portalocker),
    "Redis INCR": ("redis", _redis),
}


def others(
    root: Path, stack: ExitStack
) -> tuple[dict[str, Contestant], dict[str, str]]:
    """Return what people use, each in a directory of its own; and of what is not there, why."""
    found: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    for number, (name, (package, make)) in enumerate(_MAKERS.items()):
        if find_spec(package) is None:
            missing[name] = f"not found: package {package}"
            continue
        directory = root / str(number)  # short: the path of a socket has a limit
        directory.mkdir()
        try:
            found[name] = always(make(directory / "file", stack))
        except LookupError as error:
            missing[name] = f"not found: {error}"
    return found, missing
