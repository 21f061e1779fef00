"""The end of a SQLite store, whatever fails or goes on beside it, and what was left for later."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

import pytest

from persistent_nonce.clock import Now
from persistent_nonce.errors import StoreError, StoreUnavailableError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.disk_faults import beside
from tests.support.outside import execute, settled
from tests.support.processes import GUARD
from tests.support.workers import KEY

path, clock, store = databases.path, databases.clock, databases.store_by_clock


def test_closing_a_store_that_lost_its_files(path: Path) -> None:
    """A store whose files are gone can be closed, once or twice, and gives back all it held."""
    before = settled()
    store = SQLiteStore(path)
    NonceProvider(store, KEY).next()
    store.session()
    shutil.rmtree(beside(path, ".sessions"))
    for suffix in ("", "-wal", "-shm", ".lock", ".marks"):
        beside(path, suffix).unlink()
    store.close()
    store.close()
    assert settled() == before


def test_closing_gives_all_back_when_the_database_fails(path: Path) -> None:
    """An error of the database while closing does not keep the session alive or the files open."""
    before = settled()
    store = SQLiteStore(path)
    NonceProvider(store, KEY).next()
    store.session()
    execute(path, "ALTER TABLE keys RENAME TO former")
    with pytest.raises(StoreError):
        store.close()
    store.close()
    assert settled() == before


def test_closing_from_several_threads_at_once(tmp_path: Path) -> None:
    """A store that its finalizer, the end of the process and its user close in one moment is closed once."""
    for number in range(20):
        store = SQLiteStore(tmp_path / f"{number}.db")
        store.session()
        errors: list[BaseException] = []
        together = threading.Barrier(3)

        def close(
            store: SQLiteStore = store,
            errors: list[BaseException] = errors,
            together: threading.Barrier = together,
        ) -> None:
            together.wait(GUARD)
            try:
                store.close()
            except BaseException as error:  # noqa: BLE001 - told to the test
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD)
        assert errors == []


def test_closing_beside_threads_that_draw(path: Path) -> None:
    """Threads that draw while the store is closed get nonces or an error of ours, never another file's lock."""
    store = SQLiteStore(path)
    provider = NonceProvider(store, KEY, unit="ns")
    provider.next()
    drawn: list[int] = []
    errors: list[BaseException] = []
    busy = threading.Event()

    def draw() -> None:
        try:
            while True:
                drawn.append(provider.next())
                busy.set()
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert busy.wait(GUARD)
    store.close()
    for thread in threads:
        thread.join(GUARD)
    assert len(set(drawn)) == len(drawn)
    assert {type(error) for error in errors} == {StoreUnavailableError}
    assert len(errors) == 4


def test_what_could_not_be_done_yet_holds_up_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A change left for later that fails, on a damaged key, is logged, and those of other keys are done."""
    with SQLiteStore(path) as store:
        bad, good = NonceProvider(store, "bad"), NonceProvider(store, "good")
        bad.next()
        good.next()
    execute(path, f"UPDATE keys SET nonce = nonce + 1 WHERE key = '{bad.key}'")  # noqa: S608 - hex digits

    def label(state: KeyState, now: Now) -> Changed:
        return Changed(state._replace(label="done"))

    caplog.set_level(logging.WARNING, "persistent_nonce")
    with SQLiteStore(path) as store:
        store.later(bad.key, label)
        store.later(good.key, label)
        NonceProvider(store, "good").next()
        assert store.read(good.key).label == "done"
    assert "could not be ended yet" in caplog.text


def test_later_is_done_without_another_update(store: SQLiteStore) -> None:
    """A change left for later is made soon, also when nobody uses the store meanwhile."""
    done = threading.Event()

    def change(state: KeyState, now: Now) -> Changed:
        done.set()
        return Changed(state._replace(label="later"))

    store.later(NonceProvider(store, KEY).key, change)
    assert done.wait(GUARD)
