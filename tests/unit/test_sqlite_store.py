"""The SQLite store: the order of its commits, the faults it notices, and what it leaves behind."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import (
    ConfigurationError,
    StoreCorruptError,
    StoreError,
    StoreReplacedError,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreVersionError,
)
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import (
    Changed,
    KeyState,
    Waiting,
    fingerprint,
)
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.stores.writer import Writer
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.files import wait_for_tick
from tests.support.processes import Children, descriptors
from tests.support.workers import KEY, live

#: Seconds; a guard for what is done by another thread.
GUARD = 60.0

#: ms between two ceilings: as far as nonces go before the disk is asked again.
FIVE_SECONDS = 5_000


path, clock, store = databases.path, databases.clock, databases.store_by_clock


def take(state: KeyState, now: Now) -> Changed:
    """Take one nonce."""
    return Changed(nonces.issue(state, now))


def settled() -> int:
    """Return how many descriptors are open, once stores that were dropped have been closed by their threads."""
    gc.collect()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(GUARD)
    return descriptors()


def _beside(path: Path, suffix: str) -> Path:
    return Path(f"{path}{suffix}")


def _execute(path: Path, *statements: str) -> list[Any]:
    """Return the rows of the last of `statements`, carried out by a connection of its own."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found
    finally:
        connection.close()


# --- the order of commits (I4)


def _writes(sql: str) -> bool:
    """Whether a statement stores something of a key: in a transaction of its own, unless one is open."""
    return sql.startswith(("INSERT", "UPDATE", "COMMIT")) and "INTO store" not in sql


class Trace:
    """The marks of a key after each of a store's commits, with the level of `synchronous` it was made at."""

    def __init__(self, store: SQLiteStore, path: Path) -> None:
        self.commits: list[
            tuple[bool, int, int, int]
        ] = []  # full, nonce, ceiling, synced
        self._writer = store._writer
        self._path = path
        self._level = 1
        self._real = store._writer._execute
        store._writer._execute = self._execute

    def _execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        cursor = self._real(sql, *arguments)
        if sql.startswith("PRAGMA synchronous ="):
            self._level = int(sql.rpartition("=")[2])
        if _writes(sql) and not self._writer.connection.in_transaction:
            query = "SELECT nonce, ceiling, synced FROM keys"
            nonce, ceiling, synced = _execute(self._path, query)[-1]
            self.commits.append((self._level == 2, nonce, ceiling, synced))
        return cursor


def test_ceiling_is_on_the_disk_before_its_nonce(
    store: SQLiteStore, path: Path, clock: StillClock
) -> None:
    """A nonce above `synced` leaves after a commit with fsync that has its ceiling and no `synced` (I4)."""
    provider = NonceProvider(store, KEY)
    trace = Trace(store, path)
    first = provider.next()
    top = first + FIVE_SECONDS
    assert trace.commits == [(True, 0, top, 0), (False, first, top, top)]
    trace.commits.clear()
    provider.reserve(1)
    assert trace.commits == [(False, first + 1, top, top)]
    trace.commits.clear()
    clock.advance(5)
    assert provider.reserve(1)[0] == top
    assert trace.commits == [(False, top, top, top)]
    trace.commits.clear()
    assert provider.reserve(1)[0] == top + 1
    later = top + 1 + FIVE_SECONDS
    assert trace.commits == [(True, top, later, 0), (False, top + 1, later, later)]


def test_many_nonces_ask_the_disk_once(store: SQLiteStore, path: Path) -> None:
    """Below the ceiling no commit waits for the disk."""
    provider = NonceProvider(store, KEY)
    provider.next()
    trace = Trace(store, path)
    for _ in range(100):
        provider.reserve(1)
    assert [full for full, *_ in trace.commits] == [False] * 100


@pytest.mark.parametrize("step", [4_999, 5_000, 77_777, 450_001])
def test_no_nonce_leaves_uncovered(store: SQLiteStore, path: Path, step: int) -> None:
    """Over all the lead there is, no nonce lies above a ceiling on the disk, no ceiling above the bound (I4)."""
    provider = NonceProvider(store, KEY)
    first = provider.next()
    trace = Trace(store, path)
    while provider.last + step <= first + 900_000:
        provider.reserve(step)
    bound = store.read(provider.key).bound
    assert bound == first + 900_000
    durable = 0
    for full, nonce, ceiling, synced in trace.commits:
        assert ceiling <= bound
        if full:
            assert synced == 0
            durable = ceiling
        else:
            assert nonce <= synced <= durable or not durable
    assert durable


def test_durable_update_waits_for_the_disk(store: SQLiteStore, path: Path) -> None:
    """A durable change, a raised floor among them, is committed with fsync, each of its commits; the next is not."""
    provider = NonceProvider(store, KEY)
    last = provider.next()
    trace = Trace(store, path)
    provider.raise_floor(last + 100)
    assert [full for full, *_ in trace.commits] == [True]
    trace.commits.clear()
    provider.raise_floor(last + 100_000)
    assert [full for full, *_ in trace.commits] == [True, True]
    assert trace.commits[-1][1] == last + 100_000
    trace.commits.clear()
    provider.next()
    assert [full for full, *_ in trace.commits] == [False]


def test_failure_of_the_disk_voids_what_was_trusted(
    store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error of SQLite the next nonce asks the disk anew, though it lies below `synced` (I4)."""
    provider = NonceProvider(store, KEY)
    last = provider.next()
    real = store._writer._execute

    def fail(sql: str, *arguments: Any) -> sqlite3.Cursor:
        if _writes(sql):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR | 4 << 8  # of the fsync
            raise error
        return real(sql, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store._writer, "_execute", fail)
        with pytest.raises(StoreUnavailableError, match="input/output error") as caught:
            provider.next()
    assert "no nonce was issued" in str(caught.value)
    trace = Trace(store, path)
    assert provider.reserve(1)[0] == last + 1
    assert [full for full, *_ in trace.commits] == [True, False]
    assert trace.commits[0][3] == 0
    trace.commits.clear()
    provider.reserve(1)
    assert [full for full, *_ in trace.commits] == [False]


def test_ceiling_of_a_killed_process_is_not_trusted(
    store: SQLiteStore, path: Path
) -> None:
    """A ceiling whose fsync nobody has seen return covers nothing: `synced` tells, not `ceiling` (I3, I4)."""
    provider = NonceProvider(store, KEY)
    provider.next()

    def unsynced(state: KeyState, now: Now) -> Changed:
        return Changed(state._replace(ceiling=state.ceiling + 99_999, synced=0))

    store.update(provider.key, unsynced)
    trace = Trace(store, path)
    provider.next()
    assert [full for full, *_ in trace.commits] == [True, False]


def test_database_is_set_up_as_designed(store: SQLiteStore, path: Path) -> None:
    """The writer uses WAL without memory mapping, and gives up on foreign writers before a signal is missed."""
    connection = store._writer.connection
    settings = {
        name: connection.execute(f"PRAGMA {name}").fetchall()[0][0]
        for name in ("journal_mode", "mmap_size", "busy_timeout", "synchronous")
    }
    assert settings.pop("busy_timeout") <= 250
    assert settings == {"journal_mode": "wal", "mmap_size": 0, "synchronous": 1}


# --- files


@pytest.mark.parametrize("umask", [0, 0o777])
@pytest.mark.parametrize("shared", [False, True])
def test_modes_whatever_the_umask(tmp_path: Path, umask: int, shared: bool) -> None:
    """Every file is the owner's, or the group's too where the store is shared; so is the directory of sessions."""
    place = tmp_path / "place"
    place.mkdir(mode=0o700)
    place.chmod(0o2770 if shared else 0o700)
    before = os.umask(umask)
    try:
        with SQLiteStore(place / "nonces.db", shared=shared) as store:
            NonceProvider(store, KEY).next()
            store.session()
            found = {
                str(file.relative_to(place)): stat.S_IMODE(file.stat().st_mode)
                for file in place.rglob("*")
            }
            directory = found.pop("nonces.db.sessions")
            assert len(found) == 6
            assert set(found.values()) == {0o660 if shared else 0o600}
            assert directory == (0o2770 if shared else 0o700)
    finally:
        os.umask(before)


def test_closed_store_leaves_its_database_and_lock(path: Path) -> None:
    """After the last closing neither -wal nor -shm nor a session is left, and no descriptor is open."""
    before = settled()
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
        assert store.keys()
        store.session()
    left = sorted(file.name for file in path.parent.rglob("*"))
    assert left == [
        "nonces.db",
        "nonces.db.lock",
        "nonces.db.marks",
        "nonces.db.sessions",
    ]
    assert settled() == before


def test_dropped_store_is_closed(path: Path) -> None:
    """A store that nobody holds any more gives everything back by itself, without waiting in its finalizer."""
    before = settled()
    store = SQLiteStore(path)
    NonceProvider(store, KEY).next()
    del store
    assert settled() == before


def test_missing_directory(tmp_path: Path) -> None:
    """A directory that does not exist is not made: it may be a mount that is missing."""
    with pytest.raises(StoreUnavailableError, match="there is no directory"):
        SQLiteStore(tmp_path / "missing" / "nonces.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_unusable_timeout(path: Path, timeout: float) -> None:
    """A timeout that is no number of seconds is refused before any file is made."""
    with pytest.raises(ConfigurationError):
        SQLiteStore(path, timeout=timeout)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("what", ["database", "directory"])
def test_what_may_not_be_written(what: str, path: Path) -> None:
    """For a user who may not write the database, or its directory, an error names it, and reading goes on (A10)."""
    if os.getuid():
        pytest.skip("needs root, to become a user without rights")
    source = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tempfile import mkdtemp\n"
        "from persistent_nonce.errors import StoreError\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "with SQLiteStore(sys.argv[2]):\n"
        "    pass  # all that is imported late is there now\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "place = Path(mkdtemp())\n"
        "path = place / 'n.db'\n"
        "try:\n"
        "    with SQLiteStore(path) as store:\n"
        "        first = NonceProvider(store, 'key').next()\n"
        "    chosen = path if sys.argv[1] == 'database' else place\n"
        "    chosen.chmod(0o400 if chosen is path else 0o500)\n"
        "    try:\n"
        "        with SQLiteStore(path) as store:\n"
        "            NonceProvider(store, 'key').next()\n"
        "        print('no error')\n"
        "    except StoreError as error:\n"
        "        print(type(error).__name__, str(path) in str(error))\n"
        "    chosen.chmod(0o700)\n"
        "    path.chmod(0o600)\n"
        "    with SQLiteStore(path) as store:\n"
        "        print(NonceProvider(store, 'key').next() > first)\n"
        "finally:\n"
        "    place.chmod(0o700)\n"
        "    import shutil; shutil.rmtree(place)\n"
    )
    with Children() as children:
        child = children.script(source, what, path)
        said = child.line()
        assert said in ("StoreUnavailableError True", "StorePermissionError True")
        assert child.line() == "True"


# --- files that are not what they were (A11, A12, A13)


def _delete(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(f"{path}.moved")


def _replace(path: Path) -> None:
    shutil.copy(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


@pytest.mark.parametrize("fault", [_delete, _rename, _replace])
@pytest.mark.parametrize("suffix", ["", ".lock", ".marks", "-wal", "-shm"])
@pytest.mark.parametrize("quiet", [False, True])
def test_file_that_is_not_the_one_opened(
    path: Path,
    suffix: str,
    fault: Callable[[Path], None],
    quiet: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store whose file is deleted, renamed or replaced issues nothing more, and says which (A12, A13, I9)."""
    store = SQLiteStore(path)
    provider = NonceProvider(store, KEY)
    provider.next()
    if quiet:  # for so long that one look at the directory is enough
        monkeypatch.setattr("persistent_nonce.stores.identity._GRAIN", -1)
        provider.next()
        wait_for_tick(path.parent)
    fault(_beside(path, suffix))
    databases.wait_for_leases()
    for use in (provider.next, lambda: provider.last, lambda: provider.reserve(2)):
        with pytest.raises(StoreReplacedError, match="no nonce was issued") as caught:
            use()
        assert f"{path}{suffix} was" in str(caught.value)
    store.close()


def test_file_that_is_no_database(path: Path) -> None:
    """A file that is no database is refused as damage, unchanged, with the way out (A11)."""
    path.write_bytes(b"not a database, but long enough to look like one" * 200)
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError) as caught:
        SQLiteStore(path)
    assert "recover" in caught.value.hint
    assert path.read_bytes() == before


@pytest.mark.parametrize("wal", [False, True])
def test_somebody_elses_database(path: Path, wal: bool) -> None:
    """Another program's database is refused and not changed by a byte (I9)."""
    if wal:
        _execute(path, "PRAGMA journal_mode = WAL")
    _execute(path, "CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (5)")
    path.chmod(0o600)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptError, match="not one of persistent_nonce"):
        SQLiteStore(path)
    assert path.read_bytes() == before
    assert not _beside(path, "-wal").exists()


def test_refused_opening_leaves_nothing_open(path: Path) -> None:
    """An opening that fails gives back lock and descriptors, so that others can go on."""
    _execute(path, "CREATE TABLE theirs (x)")
    path.chmod(0o600)
    before = settled()
    for _ in range(3):
        with pytest.raises(StoreCorruptError):
            SQLiteStore(path, timeout=0.001)
    assert settled() == before


@pytest.mark.parametrize("bit", range(48))
def test_flipped_bit_of_the_stored_nonce(path: Path, bit: int) -> None:
    """Each bit that flips in the stored nonce is noticed by whoever reads it next, and nothing is issued (A11, I9)."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY, unit="ns")
        provider.next()
    mask = 1 << bit
    _execute(path, f"UPDATE keys SET nonce = (nonce | {mask}) - (nonce & {mask})")  # noqa: S608 - a number only
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, KEY)
        for use in (provider.next, lambda: provider.last):
            with pytest.raises(StoreCorruptError, match="damaged") as caught:
                use()
            assert "recover" in caught.value.hint
        assert NonceProvider(store, "another key").next() > 0


def test_damaged_page(path: Path) -> None:
    """A database whose pages were overwritten is damage, not a fresh start (A11, I9)."""
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
    data = bytearray(path.read_bytes())
    data[100:4_000] = b"\x55" * 3_900
    path.write_bytes(data)
    with pytest.raises(StoreCorruptError), SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()


# --- another version of the schema, A38


def test_newer_schema_is_refused(path: Path) -> None:
    """A database of a newer version is not opened, and not changed."""
    with SQLiteStore(path) as store:
        NonceProvider(store, KEY).next()
    _execute(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreVersionError, match="schema 99"):
        SQLiteStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE keys SET revision = revision + 1, "check" = 5',
        "ALTER TABLE keys RENAME COLUMN nonce TO mark",
        "ALTER TABLE keys RENAME TO former",
    ],
    ids=["sealed anew", "column renamed", "table renamed"],
)
@pytest.mark.parametrize("key", [KEY, "another key"])
def test_newer_schema_under_an_open_store(
    store: SQLiteStore, path: Path, key: str, statement: str
) -> None:
    """A store that is open while a newer version migrates its database issues nothing more, for any key."""
    NonceProvider(store, KEY).next()
    _execute(path, "BEGIN", statement, "PRAGMA user_version = 99", "COMMIT")
    for use in (NonceProvider(store, key).next, NonceProvider(store, key).next):
        with pytest.raises(StoreVersionError, match="schema 99"):
            use()


def test_kill_at_each_statement_of_the_first_opening(tmp_path: Path) -> None:
    """A process killed at any statement of the first opening leaves what the next one opens and uses (I3, A36)."""
    source = (
        "import os, sqlite3, sys\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "import sqlite_utils, sqlite_utils.migrations\n"
        "real = sqlite3.connect\n"
        "def connect(*arguments, **options):\n"
        "    connection = real(*arguments, **options)\n"
        "    def trace(statement):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left == 0:\n"
        "            os.kill(os.getpid(), 9)\n"
        "    connection.set_trace_callback(trace)\n"
        "    return connection\n"
        "sqlite3.connect = connect\n"
        "point = 0\n"
        "while True:\n"
        "    point += 1\n"
        "    os.mkdir(f'{sys.argv[1]}/{point}', 0o700)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        left = point\n"
        "        SQLiteStore(f'{sys.argv[1]}/{point}/n.db')\n"
        "        left = 0\n"  # what measures coverage has a database too
        "        os._exit(0)\n"
        "    if os.waitpid(pid, 0)[1] == 0:\n"
        "        break\n"
        "print(point, flush=True)\n"
    )
    with Children() as children:
        child = children.script(source, tmp_path)
        points = int(child.line())
    assert points > 20
    for point in range(1, points + 1):
        with SQLiteStore(tmp_path / str(point) / "n.db") as store:
            assert NonceProvider(store, KEY).next() > 0


# --- more than one


def test_two_stores_of_one_process_exclude_each_other(
    store: SQLiteStore, path: Path
) -> None:
    """Two stores on one database in one process are as apart as two processes: one transaction at a time (I1)."""
    provider = NonceProvider(store, KEY)
    with SQLiteStore(path, clock=StillClock(), timeout=0.01) as other:

        def change(state: KeyState, now: Now) -> Changed:
            with pytest.raises(StoreTimeoutError):
                NonceProvider(other, KEY).next()
            return take(state, now)

        first = store.update(provider.key, change).nonce
        drawn = [first, NonceProvider(other, KEY).next(), provider.next()]
        drawn.append(NonceProvider(other, KEY).next())
        assert drawn == list(range(first, first + 4))


def test_closing_one_of_two_stores(store: SQLiteStore, path: Path) -> None:
    """Closing one of two stores on a database leaves the other one its locks and its files."""
    provider = NonceProvider(store, KEY)
    with SQLiteStore(path, clock=StillClock()) as other:
        NonceProvider(other, KEY).next()
    last = provider.next()
    assert provider.next() == last + 1 == provider.last


def test_foreign_writer_is_waited_for_only_briefly(
    store: SQLiteStore, path: Path
) -> None:
    """A program that writes without our lock makes an error that names it, and nothing is issued."""
    provider = NonceProvider(store, KEY)
    last = provider.next()
    shell = sqlite3.connect(path, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreTimeoutError, match="another program holds"):
        provider.next()
    shell.execute("ROLLBACK")
    shell.close()
    assert provider.next() == last + 1


# --- ends


def test_closing_a_store_that_lost_its_files(path: Path) -> None:
    """A store whose files are gone can be closed, once or twice, and gives back all it held."""
    before = settled()
    store = SQLiteStore(path)
    NonceProvider(store, KEY).next()
    store.session()
    shutil.rmtree(_beside(path, ".sessions"))
    for suffix in ("", "-wal", "-shm", ".lock", ".marks"):
        _beside(path, suffix).unlink()
    store.close()
    store.close()
    assert settled() == before


def test_closing_gives_all_back_when_the_database_fails(path: Path) -> None:
    """An error of the database while closing does not keep the session alive or the files open."""
    before = settled()
    store = SQLiteStore(path)
    NonceProvider(store, KEY).next()
    store.session()
    _execute(path, "ALTER TABLE keys RENAME TO former")
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
    _execute(path, f"UPDATE keys SET nonce = nonce + 1 WHERE key = '{bad.key}'")  # noqa: S608 - hex digits

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


# --- sessions


def test_session_ends_with_its_process(store: SQLiteStore, path: Path) -> None:
    """Another process's session is alive while it runs, and dead once it was killed (I3)."""
    with Children() as children:
        child = children.call(live, path)
        name = child.line()
        child.wait_for("ready")
        assert store.session().dead([name]) == frozenset()
        child.kill()
        assert store.session().dead([name]) == {name}


def test_removed_session_file_gets_a_new_session(
    store: SQLiteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose session's file a cleaner removed begins another, and its former one is not dead (A34)."""
    former = store.session()
    shutil.rmtree(_beside(path, ".sessions"))
    with caplog.at_level(logging.WARNING):
        session = store.session()
    assert session.name != former.name
    assert former.name in caplog.text
    assert session.dead([former.name]) == frozenset()
    with SQLiteStore(path) as other:
        assert other.session().dead([former.name, session.name]) == frozenset()


def test_files_of_dead_sessions_are_swept(store: SQLiteStore, path: Path) -> None:
    """The files of killed processes' sessions go when the next session begins, unless a row names them."""
    names = []
    with Children() as children:
        both = [children.call(live, path) for _ in range(2)]
        for child in both:
            names.append(child.line())
            child.wait_for("ready")
        for child in both:
            child.kill()
    call = Waiting("id", names[0], "Balance", cost=1, priority=0, since=0)
    key = NonceProvider(store, KEY).key
    store.update(key, lambda state, now: Changed(state._replace(queue=(call,))))
    own = store.session().name
    left = sorted(file.stem for file in _beside(path, ".sessions").iterdir())
    assert left == sorted([names[0], own])


# --- a system that does not tell its boot


def test_boot_that_the_system_does_not_tell(path: Path) -> None:
    """The first opener names the boot and the others adopt it; once nobody lives, the next one wakes (I4)."""
    clock = StillClock(name=None)
    with SQLiteStore(path, clock=clock) as first:
        provider = NonceProvider(first, KEY)
        last = provider.next()
        boot = first.now().boot
        assert boot
        with SQLiteStore(path, clock=clock) as second:
            assert second.now().boot == boot
            assert NonceProvider(second, KEY).next() == last + 1
    clock.now -= 3_600 * SECOND
    with SQLiteStore(path, clock=clock) as third:
        assert third.now().boot not in ("", boot)
        assert NonceProvider(third, KEY).next() == last + FIVE_SECONDS + 1


def test_killed_opener_of_a_boot_without_a_name(path: Path) -> None:
    """A killed process's session does not pass for a living one: the next opener wakes (I4)."""
    source = (
        "import os, sys\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "from tests.support.clocks import StillClock\n"
        "store = SQLiteStore(sys.argv[1], clock=StillClock(name=None))\n"
        "print(NonceProvider(store, sys.argv[2]).next(), store.now().boot, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with Children() as children:
        child = children.script(source, path, KEY)
        last, boot = child.line().split()
        child.end()
    with SQLiteStore(path, clock=StillClock(name=None)) as store:
        assert store.now().boot != boot
        assert NonceProvider(store, KEY).next() > int(last) + FIVE_SECONDS


def test_failed_adoption_leaves_nothing_open(path: Path) -> None:
    """An opening that fails after the database was opened, for want of a session's directory, closes it again."""
    with SQLiteStore(path):
        pass
    _beside(path, ".sessions").write_text("in the way")
    before = settled()
    with pytest.raises(StoreError):
        SQLiteStore(path, clock=StillClock(name=None))
    assert settled() == before
    assert not _beside(path, "-wal").exists()


# --- how much it brings in


def test_import_is_lean() -> None:
    """Importing the package brings in none of the heavy modules that only some of its users need."""
    source = (
        "import sys\n"
        "import persistent_nonce\n"
        "import persistent_nonce.stores.sqlite, persistent_nonce.provider\n"
        "heavy = {'click', 'rich', 'requests', 'krakenex', 'sqlite_utils', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), flush=True)\n"
    )
    with Children() as children:
        child = children.script(source)
        assert child.line() == "[]"


def test_a_ceiling_is_stored_with_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes after a crash between the two commits of a first nonce knows in which ticks the ceiling is (I4)."""
    store_row = Writer._store
    stored: list[KeyState] = []

    def crash(self: Writer, state: KeyState, *rest: Any, **named: Any) -> bool:
        stored.append(state)
        if len(stored) > 1:
            raise StoreUnavailableError("crash")
        return store_row(self, state, *rest, **named)

    monkeypatch.setattr(Writer, "_store", crash)
    with SQLiteStore(tmp_path / "nonces.db") as store:
        with pytest.raises(StoreUnavailableError):
            NonceProvider(store, "k", unit="ns").next()
        state = store.read(fingerprint("k"))
    assert (state.unit, state.nonce, state.synced) == ("ns", 0, 0)
    assert state.ceiling > 10**18


def test_after_an_error_of_the_disk_the_log_is_written_back(tmp_path: Path) -> None:
    """A ceiling is trusted only when all that lies before it in the log is known to be on the disk (I4)."""
    with SQLiteStore(tmp_path / "nonces.db") as store:
        nonces = NonceProvider(store, "k", unit="ns")
        nonces.next()
        said: list[str] = []
        store._writer._distrust = True
        store._writer.connection.set_trace_callback(said.append)
        nonces.next()
        nonces.next()
    checkpoints = [i for i, text in enumerate(said) if "wal_checkpoint" in text]
    commits = [i for i, text in enumerate(said) if _writes(text)]
    assert len(checkpoints) == 1
    assert checkpoints[0] < commits[0]
