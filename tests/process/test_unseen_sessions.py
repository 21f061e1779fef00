"""A session whose file, process or clock the others cannot see as it is: none of its calls is taken for ended (A34)."""

from __future__ import annotations

import errno
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unittest.mock import Mock

import pytest

from persistent_nonce import CallGate, GateTimeoutError, NonceProvider, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.stores import presence
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.rebuild import rebuild
from tests.support import databases
from tests.support.callers import GUARD, Caller, Nameless
from tests.support.faulting_sizes import LONG
from tests.support.hidden_users import meet
from tests.support.processes import Children
from tests.support.workers import KEY

pytestmark = pytest.mark.timeout(LONG)

path, store = databases.path, databases.store
gate, children = databases.gate, databases.children

#: What gives a process a clock of its own, a thousand seconds ahead.
SHIFTED: Final = (
    *("unshare", "-T", "--monotonic", "1000", "--boottime", "1000"),
    *("--fork", "--kill-child"),
)

#: What gives a process numbers of its own, with the /proc of those outside.
NUMBERED: Final = ("unshare", "-m", "-p", "--fork", "--kill-child")


def works(*inside: str) -> bool:
    """Whether this process may run a command so."""
    if not shutil.which("unshare"):
        return False
    trial = [*inside, "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


NAMESPACES: Final = pytest.mark.skipif(
    not works(*NUMBERED), reason="NOT RUN: no right to make pid namespaces (unshare -p)"
)
CLOCKS: Final = pytest.mark.skipif(
    not works(*SHIFTED), reason="NOT RUN: no right to make time namespaces (unshare -T)"
)


def clean(path: Path) -> None:
    """Remove all files of sessions, as a cleaner does."""
    for file in path.with_name(path.name + ".sessions").iterdir():
        file.unlink()


def waits(gate: CallGate) -> None:
    """Make sure that there is no turn."""
    with pytest.raises(GateTimeoutError):
        gate.call("Balance", timeout=0.3).__enter__()


class Later(Nameless):
    """A clock by which every call that goes on now has gone on for too long."""

    mono = staticmethod(lambda: time.monotonic_ns() + 301 * SECOND)


# --- recover


@pytest.mark.parametrize("row", ["whole", "damaged"])
def test_recover_beside_a_call_without_its_file(
    path: Path, children: Children, row: str
) -> None:
    """A store is not rebuilt while a session lives that a row, or the record of a call, names (I5; A34)."""
    holder = Caller(children, path)
    holder.enter("AddOrder", durable=True)
    clean(path)
    if row == "whole":
        path_of(path).write_bytes(b"damage" * 20)
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute('UPDATE keys SET "check" = "check" + 1')
    before = sorted(path.parent.iterdir())
    with pytest.raises(StoreUnavailableError, match="still makes calls"):
        rebuild(path, shared=False)
    assert sorted(path.parent.iterdir()) == before
    holder.signal(signal.SIGKILL)
    assert rebuild(path, shared=False) is not None


@NAMESPACES
def test_recover_beside_a_call_that_nobody_can_judge(path: Path) -> None:
    """Where nobody can tell whether a call goes on, its time is waited for before the store is rebuilt (I5, I8)."""
    with Children(*NUMBERED) as children:
        holder = Caller(children, path)
        holder.enter("AddOrder")
        clean(path)
        path_of(path).write_bytes(b"damage" * 20)
        with pytest.raises(StoreUnavailableError, match="may be in flight") as raised:
            rebuild(path, shared=False)
        assert "its call counts as ended" in raised.value.hint
        holder.signal(signal.SIGKILL)
    assert rebuild(path, shared=False, clock=Later()) is not None


# --- a system that does not tell its boot


def test_opening_beside_a_call_without_its_file(path: Path, children: Children) -> None:
    """Whoever opens beside a call whose session has no file adopts the name of the boot that stands there (I5; A34)."""
    holder = Caller(children, path, nameless=True)
    nonce = holder.enter("AddOrder")
    clean(path)
    with SQLiteStore(path, clock=Nameless()) as store:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        waits(gate)
        holder.leave()
        with gate.call("Balance") as call:
            assert call.nonce > nonce
            holder.ask("Ledgers", timeout=0.3)
            assert holder.answer().error == "GateTimeoutError"
        assert {record.outcome for record in store.calls()} == {"ok"}


def test_who_was_not_seen_takes_the_new_name(path: Path, children: Children) -> None:
    """Who idled without a file while another opened takes its name, and ends none of its calls (I1, I4, I5; A34)."""
    idle = Caller(children, path, nameless=True)
    nonce = idle.enter("Balance")
    idle.leave()
    clean(path)
    with SQLiteStore(path, clock=Nameless()) as store:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        with gate.call("AddOrder") as call:
            assert call.nonce > nonce
            idle.ask("Balance", timeout=0.3)
            assert idle.answer().error == "GateTimeoutError"
            nonce = call.nonce
        # The other way round, and with a key that no row speaks of yet.
        later = idle.enter("AddOrder")
        assert later > nonce
        waits(gate)
        boot = store.now().boot
        with SQLiteStore(path, clock=Nameless()) as third:
            assert third.now().boot == boot  # it can be seen again
            NonceProvider(third, "another key").next()
        idle.leave()
        assert {record.outcome for record in store.calls()} == {"ok"}


def test_who_could_not_be_seen_tries_again(
    path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes another's name on a full disk, and cannot begin a session, does so at the next try (I5; A9, A34)."""
    with SQLiteStore(path, clock=Nameless()) as idle:
        nonces = NonceProvider(idle, KEY)
        nonces.next()
        clean(path)
        other = Caller(children, path, nameless=True)
        nonce = other.enter("Balance")
        other.leave()
        with monkeypatch.context() as patch:
            full = OSError(errno.ENOSPC, "no space left")
            patch.setattr(presence, "FileSession", Mock(side_effect=full))
            with pytest.raises(StoreUnavailableError, match="full"):
                nonces.next()
        assert nonces.next() > nonce
        assert idle._presence.current() is not None


@NAMESPACES
def test_opening_where_nobody_can_tell(path: Path) -> None:
    """Beside a call that nobody can judge, a store whose boot has no name opens when its time is up (I5, I9; A34)."""
    with Children(*NUMBERED) as children:
        holder = Caller(children, path, nameless=True)
        nonce = holder.enter("AddOrder", durable=True)
        with SQLiteStore(path, clock=Nameless()) as store:
            boot = store.now().boot  # seen by its file
        clean(path)
        with pytest.raises(StoreUnavailableError, match="may be in flight"):
            SQLiteStore(path, clock=Nameless())
        with SQLiteStore(path, clock=Later()) as store:
            assert store.now().boot != boot
            assert NonceProvider(store, KEY).next() > nonce
            assert [record.outcome for record in store.calls()] == ["interrupted"]


# --- processes and clocks that are not seen as they are


@NAMESPACES
def test_users_who_do_not_see_each_other() -> None:
    """A process that /proc hides is not taken for gone before it is (I3, I5; A34)."""
    with TemporaryDirectory() as directory, Children(*NUMBERED) as children:
        Path(directory).chmod(0o755)  # pytest's own are closed to others
        assert children.call(meet, directory).result() == ["waits", "waits", "in"]


@NAMESPACES
def test_processes_under_a_foreign_proc(path: Path) -> None:
    """Where /proc shows other numbers than a process's own, its lock alone speaks of it (I3, I5)."""
    with SQLiteStore(path) as store, Children(*NUMBERED) as children:
        gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        holder = Caller(children, path)
        nonce = holder.enter("AddOrder")
        running = store.read(gate.key).running
        assert running is not None
        assert running.session.split("-")[0::2][:2] == ["1", "0"]
        waits(gate)
        holder.signal(signal.SIGKILL)
        with gate.call("Balance") as call:
            assert call.nonce > nonce


@CLOCKS
@pytest.mark.parametrize("where", ["the holder", "the other"])
def test_clocks_of_another_namespace(path: Path, where: str) -> None:
    """Who has a monotonic clock of its own overtakes nobody, and nobody it, with a file and without (I5; A34)."""
    inside, outside = (SHIFTED, ()) if where == "the holder" else ((), SHIFTED)
    with Children(*inside) as holders, Children(*outside) as others:
        holder, other = Caller(holders, path), Caller(others, path)
        nonce = holder.enter("AddOrder")
        for _ in range(2):
            other.ask("Balance", timeout=0.3)
            assert other.answer().error == "GateTimeoutError"
            clean(path)
        holder.leave()
        assert other.enter("Balance") > nonce
        other.leave()
        with SQLiteStore(path) as store:
            assert [record.outcome for record in store.calls()] == ["ok", "ok"]
