"""The sessions of a SQLite store's processes, and the boot that they stand for where the system names none."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from persistent_nonce.clock import SECOND
from persistent_nonce.errors import StoreError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, Waiting
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.clocks import StillClock
from tests.support.disk_faults import beside
from tests.support.outside import FIVE_SECONDS, settled
from tests.support.processes import Children
from tests.support.workers import KEY, live

path, clock, store = databases.path, databases.clock, databases.store_by_clock


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
    shutil.rmtree(beside(path, ".sessions"))
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
    left = sorted(file.stem for file in beside(path, ".sessions").iterdir())
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
    beside(path, ".sessions").write_text("in the way")
    before = settled()
    with pytest.raises(StoreError):
        SQLiteStore(path, clock=StillClock(name=None))
    assert settled() == before
    assert not beside(path, "-wal").exists()
