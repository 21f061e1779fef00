"""What `doctor` finds, and what it tells people to do."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.commands import doctor
from persistent_nonce.commands.checks import check_key
from persistent_nonce.errors import ConfigurationError, StoreUnsupportedError
from persistent_nonce.state import KeyState, fingerprint
from persistent_nonce.stores import place
from tests.support.commands import listing
from tests.support.states import HOLD, WALL, at, fresh, running, waiting

TICKS = WALL // 1_000_000


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database with the keys `one` and `two`, each of which has issued a nonce."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        for key in ("one", "two"):
            NonceProvider(store, key, label=key).next()
    return path


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.05)


def nowhere() -> Iterable[Path]:
    """Name no other store."""
    return []


def wrong(path: Path, others: Callable[[], Iterable[Path]] = nowhere) -> list[str]:
    """Return what is wrong with a database, as `about: said -> do`; each says what to do."""
    found = [f for f in doctor.examine(path, others=others) if f.wrong]
    assert all(finding.do for finding in found)
    return [f"{f.about}: {f.said} -> {f.do}" for f in found]


def test_nothing_is_wrong_with_a_new_database(database: Path) -> None:
    """A healthy database has no finding, and every check has said something."""
    found = doctor.examine(database, others=nowhere)
    assert not [finding for finding in found if finding.wrong]
    assert [finding.about for finding in found] == [
        "file system",
        "permissions",
        "SQLite",
        "lock",
        "clock",
        "database",
        *(f"key {fingerprint(key)} {key!r}" for key in sorted(("one", "two"), key=fingerprint)),
        "other stores",
    ]  # fmt: skip


def test_nothing_is_changed(database: Path) -> None:
    """An examination leaves every file as it was, and none behind."""
    before, times = listing(database.parent), os.stat(database).st_mtime_ns
    doctor.examine(database, others=nowhere)
    assert listing(database.parent) == before
    assert os.stat(database).st_mtime_ns == times


# --- the place


def test_a_missing_database(tmp_path: Path) -> None:
    """Where there is no database, that is the finding, and none is made."""
    (found,) = wrong(tmp_path / "nonces.db")
    assert found.startswith("database: there is no database")
    assert not list(tmp_path.iterdir())


def test_a_missing_directory(tmp_path: Path) -> None:
    """A missing directory is named."""
    found = wrong(tmp_path / "away" / "nonces.db")
    assert any("there is no directory" in each for each in found)


def test_an_impossible_path(tmp_path: Path) -> None:
    """A path that is none is an error, not a finding."""
    with pytest.raises(ConfigurationError):
        doctor.examine(tmp_path / "a\nb", others=nowhere)


def test_a_file_that_everybody_may_write(database: Path) -> None:
    """A mode that lets everybody write is a finding."""
    database.chmod(0o666)
    (found,) = wrong(database)
    assert "everybody may write" in found


def test_a_link_to_a_database(database: Path) -> None:
    """Programs refuse a link to a database, so doctor says so; it looks into what it leads to all the same."""
    link = database.with_name("link.db")
    link.symlink_to(database)
    found = wrong(link)
    assert len(found) == 1
    assert "symbolic link" in found[0]


@pytest.mark.skipif(
    os.getuid() == 0, reason="NOT RUN: root may write what is read-only"
)
def test_a_read_only_database(database: Path) -> None:
    """A file that this user may not write is a finding."""
    database.chmod(0o400)
    assert any("permission denied" in each for each in wrong(database))


def test_a_file_without_write_permission(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the system says may not be written is a finding."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != database)
    (found,) = wrong(database)
    assert "permission denied" in found


def test_a_file_system_of_another_machine(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system on which the guarantees do not hold is a finding, with its hint."""

    def refuse(path: Path, *, implicit: bool, trust: bool) -> None:
        assert (path, implicit, trust) == (database, False, False)
        raise StoreUnsupportedError("it lies on nfs", "move it")

    monkeypatch.setattr(place, "check_filesystem", refuse)
    assert wrong(database) == ["file system: it lies on nfs -> move it"]


def test_the_default_place_is_judged_as_nobody_s_choice(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that nobody has named has to outlive containers and reboots."""
    seen = []

    def look(path: Path, *, implicit: bool, trust: bool) -> None:
        seen.append(implicit)

    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    monkeypatch.setattr(place, "default_path", lambda: database)
    monkeypatch.setattr(place, "check_filesystem", look)
    doctor.examine(None, others=nowhere)
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(database))
    doctor.examine(None, others=nowhere)
    assert seen == [True, False]


# --- SQLite


@pytest.mark.parametrize(
    ("version", "loses"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False),
        ((3, 45, 0), True), ((3, 50, 6), True), ((3, 50, 7), False), ((3, 51, 0), True), ((3, 51, 2), True),
        ((3, 51, 3), False), ((3, 52, 0), False), ((4, 0, 0), False),
    ],
)  # fmt: skip
def test_versions_of_sqlite(version: tuple[int, ...], *, loses: bool) -> None:
    """The versions of SQLite with the WAL-reset bug are known, those that mended it too."""
    assert doctor.loses_commits(version) is loses


def test_the_version_of_sqlite_is_told(database: Path) -> None:
    """The version that runs is told, and is no finding, since the lock protects from its bug."""
    (found,) = [f for f in doctor.examine(database, others=nowhere) if f.about == "SQLite"]  # fmt: skip
    assert found.said.startswith(sqlite3.sqlite_version)
    assert not found.wrong


# --- the lock


@contextmanager
def held(database: Path) -> Iterator[None]:
    """Hold the store's lock, as another program would."""
    descriptor = os.open(f"{database}.lock", os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_a_lock_that_is_not_given_back(database: Path) -> None:
    """Who holds the lock for long is named, with the state of its process."""
    with held(database):
        (found,) = wrong(database)
    assert found.startswith("lock: held for more than 0.05 s by process ")
    assert f"by process {os.getpid()} (running)" in found
    assert wrong(database) == []


def test_a_stopped_holder_can_be_continued(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stopped process it is said how to let it go on."""
    monkeypatch.setattr(doctor, "process_state", lambda pid: "stopped")
    with held(database):
        (found,) = wrong(database)
    assert f"(stopped) -> let it go on (kill -CONT {os.getpid()}), or end it" in found


def test_a_holder_out_of_sight(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows no locks of other containers; then it is said to look there."""
    monkeypatch.setattr(doctor, "_holder", lambda file: None)
    with held(database):
        (found,) = wrong(database)
    assert "in the other containers" in found


def test_a_lock_of_the_moment_is_waited_out(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is given back within the patience is no finding."""
    tries = []
    flock = fcntl.flock

    def busy(descriptor: int, operation: int) -> None:
        tries.append(operation)
        if len(tries) < 3:
            raise BlockingIOError
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", busy)
    monkeypatch.setattr(doctor, "_PATIENCE", 10.0)
    assert wrong(database) == []
    assert tries == [fcntl.LOCK_SH | fcntl.LOCK_NB] * 3


def test_without_a_lock_file(database: Path) -> None:
    """A missing lock file is made by the next program, not here."""
    Path(f"{database}.lock").unlink()
    assert wrong(database) == []
    assert not Path(f"{database}.lock").exists()


# --- the clock


def test_a_clock_that_was_never_set(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that says 1970 is a finding."""
    (found, *_) = [doctor._clock(at()._replace(wall=3600 * SECOND))]
    assert found.wrong
    assert "1970-01-01 01:00:00" in found.said
    assert not doctor._clock(at()).wrong


# --- keys


def sleeping(session: str) -> str:
    """Stand in for a look at a session whose process lives."""
    return "sleeping"


def used(**changes: object) -> KeyState:
    """Return the state of a key whose last nonce was taken just now."""
    state = fresh("ms")._replace(nonce=TICKS, seen=TICKS)
    return state._replace(**changes)  # type: ignore[arg-type]  # named by the test


def ill(
    state: KeyState, after: float = 0.0, standing: Callable[[str], str] = sleeping
) -> list[str]:
    """Return what is wrong with a key."""
    found = check_key(state, at(after), standing)
    assert all(finding.do for finding in found if finding.wrong)
    return [f"{f.said} -> {f.do}" for f in found if f.wrong]


@pytest.mark.parametrize(
    "state",
    [
        fresh(),
        used(),
        used(nonce=TICKS + 60_000, jumped_at=TICKS + 60_000),
        used(nonce=TICKS + 3_600_000, offset=3_600_000),
        used(running=running(session="5-1-1-a"), queue=(waiting(session="6-1-1-a"),)),
        used(queue=(waiting(session="6-1-1-a"),), boot="boot-0"),
        used(not_before=WALL + SECOND, set_at=WALL, reason="Throttled"),
    ],
)
def test_a_key_in_use_is_well(state: KeyState) -> None:
    """A new key, one that was jumped or raised on purpose, and one in use have no finding."""
    assert ill(state) == []


def test_a_closed_key() -> None:
    """A closed key is a finding with its diagnosis and what opens it."""
    (found,) = ill(used(closed=True, refusals=3, diagnosis="somebody else"))
    assert found.startswith("closed: somebody else -> ")
    assert "reopen" in found


def test_refused_nonces() -> None:
    """Refused nonces are a finding before they close the key."""
    (found,) = ill(used(refusals=2))
    assert found.startswith("2 of 3 nonces in a row were refused")


def test_a_mark_in_another_unit() -> None:
    """A floor given in microseconds to a key that counts in milliseconds is recognised."""
    far = TICKS * 1000
    (found,) = ill(used(nonce=far, offset=far - TICKS))
    assert "looks like a time in us, but the key counts in ms" in found


def test_a_long_lead() -> None:
    """A mark that has used up more than half of what it may be ahead is a finding."""
    assert ill(used(nonce=TICKS + 449_000)) == []
    (found,) = ill(used(nonce=TICKS + 451_000))
    assert found.startswith("451 s ahead of the clock, of 900 s that are allowed")
    assert ill(used(nonce=TICKS + 451_000), after=10.0) == []


def test_a_clock_set_back() -> None:
    """A clock that stood later when a nonce was taken is a finding."""
    state = used(seen=TICKS + 60_000)
    (found,) = ill(state)
    assert found.startswith("the clock stood 60 s later")
    assert ill(state, after=56.0) == []


def test_a_dead_process_in_mid_call() -> None:
    """The call of a dead process may have been executed: that is to be looked up."""
    state = used(running=running(session="5-1-1-a", nonce=9))
    (found,) = ill(state, standing=lambda session: "gone")
    assert found.startswith("Balance with nonce 9 of process 5 was in flight when its process ended")  # fmt: skip


def test_a_reboot_in_mid_call() -> None:
    """So is a call that a reboot cut off."""
    (found,) = ill(used(running=running(session="5-1-1-a"), boot="boot-0"))
    assert "was in flight when its process ended" in found


def test_a_stopped_process_in_mid_call() -> None:
    """A stopped process that has the call in flight is named, with how to let it go on."""
    state = used(running=running(session="5-1-1-a"))
    (found,) = ill(state, standing=lambda session: "stopped")
    assert found.endswith("let it go on (kill -CONT 5), or end it")


def test_a_call_without_end() -> None:
    """A call that has lasted longer than it may is a finding."""
    state = used(running=running(session="5-1-1-a"))
    (found,) = ill(state, after=HOLD / SECOND + 1)
    assert "in flight for longer than it may be" in found


def test_a_stopped_process_in_the_queue() -> None:
    """A stopped process that waits is named once, however many calls it has in the queue."""
    queue = (waiting("a", session="6-1-1-a"), waiting("b", session="6-1-1-a"))
    (found,) = ill(used(queue=queue), standing=lambda session: "stopped")
    assert found.startswith("process 6 waits for its turn, and is stopped")


def test_a_damaged_key_is_named_and_the_others_are_examined(database: Path) -> None:
    """A row with a changed bit is a finding; the other key is examined all the same."""
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE keys SET nonce = nonce + 1 WHERE key = ?", (fingerprint("one"),)
        )
    connection.close()
    found = doctor.examine(database, others=nowhere)
    ill = [finding for finding in found if finding.wrong]
    assert [finding.about for finding in ill] == [f"key {fingerprint('one')}"]
    assert f"key {fingerprint('two')} 'two'" in [finding.about for finding in found]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of something else is a finding."""
    path = tmp_path / "nonces.db"
    path.write_text("hello" * 1000)
    path.chmod(0o600)
    assert any(each.startswith("database: the file is not") for each in wrong(path))


# --- other stores


def test_a_key_in_another_store(database: Path, tmp_path: Path) -> None:
    """A key that another store counts too is a finding that names both; an own link to this store is none."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    with SQLiteStore(elsewhere / "nonces.db") as store:
        NonceProvider(store, "two").next()
        NonceProvider(store, "three").next()
    found = wrong(
        database, lambda: [database, elsewhere / "nonces.db", tmp_path / "no"]
    )
    assert len(found) == 1
    assert f"key {fingerprint('two')} is in '{elsewhere / 'nonces.db'}' too" in found[0]


def test_a_store_that_cannot_be_read_is_passed_over(
    database: Path, tmp_path: Path
) -> None:
    """What lies in another user's place and is no readable store is no finding."""
    (tmp_path / "other.db").write_bytes(b"x" * 4096)
    assert wrong(database, lambda: [tmp_path / "other.db"]) == []


def test_each_user_has_a_default_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default stores of all users are looked at, this one's among them."""
    stores = [*doctor.default_stores()]
    assert place.home_path(os.getuid()) in stores
    assert all(path.name == "nonces.db" for path in stores)
