"""I11 once more: each error that the library can raise, with a marked key; what a killed program leaves (fault A28)."""

from __future__ import annotations

import fcntl
import logging
import pickle
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import (
    CallGate,
    InvalidNonceError,
    NonceError,
    NonceProvider,
    Recovery,
    SQLiteStore,
    errors,
)
from persistent_nonce.adapters.account import Account, Answer
from persistent_nonce.clock import SECOND
from persistent_nonce.state import Changed, KeyState, fingerprint
from persistent_nonce.steps import run
from tests.e2e.test_secrets import KEY, MARKS, SECRET
from tests.support.processes import Children
from tests.support.workers import say


class Stage:
    """A store with a key in use, on which something goes wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = SQLiteStore(path, timeout=0.05)
        self.nonces = NonceProvider(self.store, KEY, label="main")
        self.gate = CallGate(self.store, KEY, min_interval=0.0, timeout=0.0)
        self.nonces.next()

    def change(self, **fields: object) -> None:
        """Set fields of the key's state."""
        self.store.update(self.gate.key, lambda state, now: Changed(state._replace(**fields)))  # type: ignore[arg-type]  # the fields are the tests'  # fmt: skip

    def execute(self, sql: str) -> None:
        """Change the database behind the library's back, while it is closed."""
        self.store.close()
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql)

    def enter(self, gate: CallGate | None = None) -> None:
        """Make a call."""
        with (gate or self.gate).call("AddOrder"):
            pass


def _refused(stage: Stage) -> None:
    gate = CallGate(stage.store, KEY, recovery=Recovery(attempts=1))
    for attempt in gate.attempts("AddOrder"):
        with attempt:
            raise InvalidNonceError(f"API-Key {fingerprint(KEY)}")


def _unanswered(stage: Stage) -> None:
    async def ask(*_: object) -> Answer:
        return Answer({"error": ["EGeneral:Permission denied"]}, 1)

    async def ask_time() -> float:
        return 0.0

    run(Account(stage.store, fingerprint(KEY), ask, ask_time).verify())


def _reentry(stage: Stage) -> None:
    def change(state: KeyState, now: object) -> Changed:
        stage.nonces.next()
        return Changed(state)

    stage.store.update(stage.gate.key, change)


def _nested(stage: Stage) -> None:
    with stage.gate.call("Balance"):
        stage.enter()


def _in_the_way(stage: Stage) -> None:
    with SQLiteStore(stage.path) as other, CallGate(other, KEY).call("Balance"):
        stage.enter()


def _locked_out(stage: Stage) -> None:
    now = time.time_ns()
    stage.change(not_before=now + 900 * SECOND, set_at=now, reason="lockout")
    stage.enter(CallGate(stage.store, KEY, timeout=1.0))


def _closed_key(stage: Stage) -> None:
    stage.change(closed=True, diagnosis="3 nonces in a row were refused")
    stage.nonces.next()


def _forked(stage: Stage) -> None:
    with stage.gate.call("Balance") as call:
        call._pid += 1
        try:
            assert call.nonce
        finally:
            call._pid -= 1


def _lock_held(stage: Stage) -> None:
    with open(f"{stage.path}.lock", "rb+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stage.nonces.next()


def _closed_store(stage: Stage) -> None:
    stage.store.close()
    stage.nonces.next()


def _open_to_all(stage: Stage) -> None:
    stage.store.close()
    stage.path.parent.chmod(0o777)
    NonceProvider(SQLiteStore(stage.path), KEY).next()


def _old_sqlite(stage: Stage) -> None:
    stage.store.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "sqlite_version_info", (3, 30, 0))
        SQLiteStore(stage.path)


def _newer(stage: Stage) -> None:
    stage.execute("PRAGMA user_version = 1999")
    SQLiteStore(stage.path)


def _replaced(stage: Stage) -> None:
    copy = stage.path.with_name("copy")
    shutil.copy(stage.path, copy)
    copy.replace(stage.path)
    stage.nonces.next()


def _damaged(stage: Stage) -> None:
    stage.execute("UPDATE keys SET nonce = nonce + 4")
    with SQLiteStore(stage.path) as store:
        NonceProvider(store, KEY).next()


#: How each error comes about; the base classes alone are raised by nobody, but for StoreError.
WAYS: Final[dict[str, Callable[[Stage], object]]] = {
    "InvalidNonceError": _refused,
    "ExchangeError": _unanswered,
    "NonceRangeError": lambda stage: stage.nonces.raise_floor(2**63),
    "ConfigurationError": lambda stage: NonceProvider(stage.store, KEY, unit="h"),
    "UnitMismatchError": lambda stage: NonceProvider(stage.store, KEY, unit="s").next(),
    "GateTimeoutError": _in_the_way,
    "LockedOutError": _locked_out,
    "KeyClosedError": _closed_key,
    "NestedCallError": _nested,
    "ForkedCallError": _forked,
    "StoreError": _reentry,
    "StoreTimeoutError": _lock_held,
    "StoreUnavailableError": _closed_store,
    "StorePermissionError": _open_to_all,
    "StoreUnsupportedError": _old_sqlite,
    "StoreVersionError": _newer,
    "StoreReplacedError": _replaced,
    "StoreCorruptError": _damaged,
}

#: Bases, and what another part of the tests provokes.
NOT_HERE: Final = {"NonceError", "CallError", "StoreRolledBackError"}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Yield a store in a directory of its own."""
    directory = tmp_path / "state"
    directory.mkdir(0o700)
    made = Stage(directory / "nonces.db")
    yield made
    with suppress(NonceError):
        made.store.close()


def unmarked(texts: list[str], directory: Path) -> None:
    """Check that neither texts nor files nor their names tell the key or the secret."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    contents = [path.read_bytes() for path in files]
    texts += [str(path) for path in files]
    for mark in MARKS:
        assert not [text for text in texts if mark in text]
        assert not [content for content in contents if mark.encode() in content]


def test_every_error_has_its_way() -> None:
    """Each class of the tree of errors is provoked here, so that a new one is not forgotten (A28)."""
    assert {*WAYS} | NOT_HERE == {*errors.__all__}


@pytest.mark.parametrize("kind", WAYS)
def test_no_error_tells_key_or_secret(
    stage: Stage, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Text, repr, hint, pickle, traceback and causes of each error, and the log, tell nothing (I11; A28)."""
    caplog.set_level(logging.DEBUG)
    try:
        WAYS[kind](stage)
    except NonceError as error:
        caught = error
    assert type(caught) is getattr(errors, kind)
    texts = [str(caught), repr(caught), caught.hint, repr(pickle.dumps(caught))]
    texts += traceback.format_exception(caught)
    link: BaseException | None = caught
    while link is not None:
        texts += [str(link), repr(link), str(vars(link))]
        link = link.__cause__ or link.__context__
    texts += [caplog.text, *(str(vars(record)) for record in caplog.records)]
    unmarked(texts, stage.path.parent)


def wait_with_a_secret(path: str) -> None:
    """Be in a call with a key and a secret that came in by standard input, and live on."""
    key, secret = sys.stdin.readline().split()
    store = SQLiteStore(path)
    NonceProvider(store, key, label="main").next()
    with CallGate(store, key, min_interval=0.0).call("AddOrder", durable=True) as call:
        assert secret
        say(str(call.nonce))
        sys.stdin.readline()


def test_a_killed_program_leaves_nothing_to_read(tmp_path: Path) -> None:
    """Of a program killed in its call neither its files nor the list of processes tell key or secret (I11; A28)."""
    directory = tmp_path / "state"
    directory.mkdir(0o700)
    with Children() as children:
        child = children.call(wait_with_a_secret, directory / "nonces.db")
        child.tell(f"{KEY} {SECRET}")
        assert int(child.line()) > 0
        process = Path(f"/proc/{child.pid}")
        names = [process / "cmdline", process / "environ"]
        seen = [name.read_bytes().decode() for name in names if name.exists()]
        unmarked(seen, directory)
        child.kill()
    unmarked([], directory)
    files = b"".join(p.read_bytes() for p in directory.rglob("*") if p.is_file())
    assert fingerprint(KEY).encode() in files
