"""One database, several users: a group shares it whatever their umasks are, and a stranger's file is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.errors import StoreError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.reader import Reader
from tests.process.test_place_real_mounts import (
    ANN,
    BEN,
    BOTS,
    EVE,
    USERS,
    database,
    user,
)
from tests.support.disk_ledger import findings
from tests.support.faulting_sizes import LONG, times
from tests.support.killing import forked

__all__ = ["database"]

pytestmark = [USERS, pytest.mark.timeout(LONG)]

CAT: Final = 61_004

#: Who they are, and what their shells say that others may not do with their files.
CREW: Final = ((ANN, 0o077), (BEN, 0o000), (CAT, 0o027), (ANN, 0o777))


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import all that is imported late: another user may not be able to read it."""
    path = tmp_path_factory.mktemp("first") / "nonces.db"
    with SQLiteStore(path):
        findings(path)


def become(number: int, umask: int, work: Callable[[], object]) -> list[str]:
    """Do `work` as a user, in a process of its own that is killed at the end; return what it told."""

    def act(tell: Callable[[str], None]) -> None:
        os.umask(umask)
        with user(number, *([] if number == EVE else [BOTS])):
            try:
                tell(str(work()))
            except StoreError as error:
                tell(f"{type(error).__name__}: {error}")

    lines, _ = forked(act)
    assert lines[-1:] == ["end"], lines
    return lines[:-1]


@pytest.mark.parametrize("way", ["closed", "killed"])
def test_group_of_users(database: Path, way: str) -> None:
    """Users of a group take turns, whatever their umasks; each is above all before, also after a kill (I1, I3; A10)."""
    os.chown(database.parent, ANN, BOTS)
    database.parent.chmod(0o2770)

    def work() -> int:
        store = SQLiteStore(database, shared=True)
        provider = NonceProvider(store, "key", unit="ns")
        if not provider.last:
            provider.raise_floor(provider.next() + 10**11)
        with CallGate(store, "key", min_interval=0.0).call("Balance") as call:
            nonce = call.nonce
        if way == "closed":
            store.close()
        return nonce

    last = 0
    for turn in range(times(8, 40)):
        (said,) = become(*CREW[turn % len(CREW)], work)
        assert int(said) > last
        last = int(said)
        for file in [*database.parent.rglob("*"), *database.parent.iterdir()]:
            found = file.stat()
            expected = 0o2770 if file.is_dir() else 0o660
            assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (BOTS, expected), file
    (said,) = become(EVE, 0o022, work)
    assert said.startswith("StorePermissionError: ")
    assert f"user {EVE}" in said


#: Stores that their process does not close.
LEFT_OPEN: list[SQLiteStore] = []


@pytest.mark.parametrize("suffix", ["-wal", "-shm", ".lock", ".marks"])
def test_file_that_another_user_left(database: Path, suffix: str) -> None:
    """A file that a program of another user's made is refused by name, by doctor too, and harmless when given back."""

    def take() -> int:
        store = SQLiteStore(database)
        LEFT_OPEN.append(store)  # the end of the process leaves -wal and -shm
        return NonceProvider(store, "key", unit="ns").next()

    (first,) = become(ANN, 0o077, take)
    file = Path(f"{database}{suffix}")
    os.chown(file, BEN, BEN)
    for work in (take, lambda: findings(database)):
        (said,) = become(ANN, 0o077, work)
        assert repr(str(file)) in said
        assert f"(mode 0600) belongs to user {BEN}, and this is user {ANN}" in said
        assert "as one user" in said
    os.chown(file, ANN, ANN)
    (second,) = become(ANN, 0o077, take)
    assert int(second) > int(first)


@pytest.mark.parametrize("mode", [0o700, 0o760])
def test_sessions_of_the_time_before_a_group_shared(database: Path, mode: int) -> None:
    """A directory of sessions that keeps the group out is refused by name, by doctor too; its owner opens it (I9)."""

    def call(*, shared: bool) -> str:
        store = SQLiteStore(database, shared=shared)
        with store, CallGate(store, "key", min_interval=0.0).call("Balance"):
            return "called"

    def examined(tell: Callable[[str], None]) -> None:
        os.setgroups([BOTS])
        os.setuid(BEN)  # for good: access(2) asks who started the process
        tell(str(findings(database)))

    assert become(ANN, 0o077, partial(call, shared=False)) == ["called"]
    for file in database.parent.iterdir():
        os.chown(file, ANN, BOTS)
        file.chmod(0o660)
    os.chown(database.parent, ANN, BOTS)
    database.parent.chmod(0o2770)
    sessions = Path(f"{database}.sessions")
    sessions.chmod(mode)
    refused = become(BEN, 0o077, partial(call, shared=True))
    for said in (*refused, forked(examined)[0][0]):
        assert f"'{sessions}' has mode 0{mode:o} and belongs to user {ANN}" in said
    for number in (ANN, BEN):
        assert become(number, 0o077, partial(call, shared=True)) == ["called"]
    assert forked(examined)[0][0] == "[]"


def test_user_who_may_only_read(database: Path) -> None:
    """Where a mode lets others read, they can look, and neither take a nonce nor leave a file (I9; fault A10)."""

    def take() -> int:
        with SQLiteStore(database) as store:
            return NonceProvider(store, "key", unit="ns").next()

    def look() -> int:
        reader = Reader(database)
        try:
            return reader.read(fingerprint("key")).nonce
        finally:
            reader.close()

    (nonce,) = become(ANN, 0o077, take)
    database.chmod(0o644)
    before = sorted(os.listdir(database.parent))
    assert become(EVE, 0o022, look) == [nonce]
    (said,) = become(EVE, 0o022, take)
    assert said.startswith("StorePermissionError: ")
    assert sorted(os.listdir(database.parent)) == before
    (said,) = become(EVE, 0o022, lambda: findings(database))
    assert f"belongs to user {ANN}, and this is user {EVE}" in said
