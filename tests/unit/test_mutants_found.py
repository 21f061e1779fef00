"""What seeded faults found untested: each test here fails for one of them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.doorbell import Doorbell
from persistent_nonce.errors import InvalidNonceError, StoreReplacedError
from persistent_nonce.gate import CallGate
from persistent_nonce.nonces import set_unit
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Change, Changed, KeyState
from persistent_nonce.stores.identity import Files
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.simulated import Hands


class Asked(MemoryStore):
    """A store that notes which of its updates were to be on the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.durable: list[bool] = []

    def update(self, key: str, change: Change, *, durable: bool = False) -> KeyState:
        """Take a note, and update."""
        self.durable.append(durable)
        return super().update(key, change, durable=durable)


@pytest.mark.parametrize("durable", [True, False])
def test_a_call_that_changes_something_is_on_the_disk_before_it_starts(
    durable: bool,
) -> None:
    """Where it is asked for, the transaction that starts a call waits for the disk, and only there (I4)."""
    store = Asked()
    with CallGate(store, "key").call("AddOrder", durable=durable):
        assert store.durable == [durable]


def test_a_finer_unit_is_on_the_disk_before_its_first_nonce(tmp_path: Path) -> None:
    """A change of unit waits for the disk though nobody asked for it: no ceiling speaks for the mark it leaves (I4)."""
    with SQLiteStore(tmp_path / "nonces.db") as store:
        key = NonceProvider(store, "key", unit="ms").key
        NonceProvider(store, "key").next()
        writer, waited = store._writer, []
        real = writer._execute

        def execute(sql: str, *arguments: Any) -> Any:
            if sql.startswith("UPDATE"):
                waited.append(writer._full)
            return real(sql, *arguments)

        writer._execute = execute
        store.update(key, lambda state, now: Changed(set_unit(state, now, "us")))
        assert waited == [True]
        NonceProvider(store, "key").next()
        assert waited[1] is True  # its ceiling


def _refuse_each(gate: CallGate) -> None:
    """Have every attempt refused, while another call of the key succeeds after each."""
    for number, attempt in enumerate(gate.attempts("Balance"), 1):
        assert number <= 3
        with attempt:
            raise InvalidNonceError("refused")
        with gate.call("TradesHistory"):
            pass


def test_no_call_is_tried_again_for_ever_though_others_succeed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The attempts of one call are counted for themselves: the key's row of refusals may end in between (I10)."""
    clock = Hands()
    clock.forward(1_000)
    monkeypatch.setattr(Doorbell, "wait", lambda _, seconds: clock.forward(seconds))
    gate = CallGate(MemoryStore(clock=clock), "key")
    with pytest.raises(InvalidNonceError, match="attempt 3 of 3"):
        _refuse_each(gate)


def test_a_file_replaced_in_the_tick_of_the_last_look_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory whose time is too young to tell two changes apart is looked through each time (faults A12, A13)."""
    path = tmp_path / "n.db"
    for suffix in ("", ".lock", ".marks", "-wal", "-shm"):
        Path(f"{path}{suffix}").touch()
    real = os.stat
    found = real(tmp_path)
    young = found.st_ctime_ns + 3_600 * SECOND  # and stays as young on any machine

    def stat(name: Any, **options: Any) -> Any:
        if str(name) != str(tmp_path):
            return real(name, **options)
        return SimpleNamespace(
            st_dev=found.st_dev, st_ino=found.st_ino, st_ctime_ns=young
        )

    files = Files(path)
    files.record()
    copy = tmp_path / "copy"
    copy.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        files.check()
        os.replace(copy, path)
        with pytest.raises(StoreReplacedError):
            files.check()


def test_a_database_opened_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that took a database for closed looks again after reading: what was committed meanwhile counts (I9)."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        key = NonceProvider(store, "key").key
        first = NonceProvider(store, "key").next()
    reader, real = Reader(path), Reader._open
    opened: list[SQLiteStore] = []

    def slow(self: Reader, how: str) -> Any:
        connection = real(self, how)
        if not opened:  # meanwhile a bot starts
            opened.append(SQLiteStore(path))
            NonceProvider(opened[0], "key").next()
        return connection

    monkeypatch.setattr(Reader, "_open", slow)
    assert reader.read(key).nonce > first
    reader.close()
    opened[0].close()
