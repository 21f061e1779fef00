"""A database is rebuilt from what is left of it, only upwards, and in one piece."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import (
    KeyClosedError,
    NonceError,
    StoreCorruptError,
    StoreReplacedError,
    StoreRolledBackError,
    StoreUnavailableError,
    StoreVersionError,
)
from persistent_nonce.gate import CallGate
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import MAX_NONCE, UNITS, Changed, KeyState, fingerprint
from persistent_nonce.stores import place, schema
from persistent_nonce.stores import rebuild as module
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.rebuild import Rebuilt, rebuild
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.files import wait_for_tick

KEYS = ("one", "two", "three")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database in a directory of its own."""
    tmp_path.chmod(0o700)
    return tmp_path / "nonces.db"


def use(path: Path, times: int = 3) -> dict[str, int]:
    """Take nonces of every key, far ahead of the clock, in several units; return the last of each."""
    with SQLiteStore(path) as store:
        last = {}
        for key, unit in zip(KEYS, ("ms", "us", "ns"), strict=True):
            provider = NonceProvider(store, key, unit=unit, label=f"{key} label")
            provider.raise_floor(provider.next() + 600 * SECOND // UNITS[unit])
            for _ in range(times):
                last[provider.key] = provider.next()
        gate = CallGate(store, "one", min_interval=0.0)
        for _ in range(times):
            with gate.call("Balance") as call:
                last[fingerprint("one")] = call.nonce
        return last


def contents(path: Path) -> dict[str, bytes]:
    """Return every file beside the database but the lock, which is made by who looks."""
    files = (file for file in path.parent.rglob("*") if file.is_file())
    return {file.name: file.read_bytes() for file in files if file.suffix != ".lock"}


def done(path: Path) -> Rebuilt:
    """Rebuild the database, which must be in need of it."""
    rebuilt = rebuild(path, shared=False)
    assert rebuilt is not None
    assert rebuild(path, shared=False) is None  # and now nothing is wrong any more
    return rebuilt


def goes_on_above(path: Path, last: dict[str, int]) -> None:
    """Assert that the next nonce of every key lies above its last."""
    with SQLiteStore(path) as store:
        for key in KEYS:
            provider = NonceProvider(store, key)
            assert provider.next() > last[provider.key]


def test_nothing_wrong(path: Path) -> None:
    """A sound database is left as it is, to the last byte, with its neighbours."""
    use(path)
    before = contents(path)
    assert rebuild(path, shared=False) is None
    assert contents(path) == before


def test_older_copy(path: Path) -> None:
    """After an older copy was put in place, each key goes on above its mark, with its settings and calls (I10)."""
    use(path)
    older = path.read_bytes()
    last = use(path)
    path.write_bytes(older)
    rebuilt = done(path)
    assert rebuilt.calls == 3
    assert rebuilt.kept is not None
    assert rebuilt.kept.read_bytes() == older
    assert {key.state.label for key in rebuilt.keys} == {f"{key} label" for key in KEYS}
    assert all(key.before and key.mark for key in rebuilt.keys)
    goes_on_above(path, last)
    with SQLiteStore(path) as store:
        assert len(store.calls("one")) == 0
        assert len(store.calls(fingerprint("one"))) == 3


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 500])
def test_lost_database(path: Path, content: bytes | None) -> None:
    """Of a database that is gone, empty or overwritten, the marks keep every key with its unit."""
    last = use(path)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    rebuilt = done(path)
    assert [key.state.unit for key in rebuilt.keys if not key.before] == [
        key.mark.unit for key in rebuilt.keys if key.mark
    ]
    assert (rebuilt.kept is None) == (content is None)
    goes_on_above(path, last)


def test_lost_log(path: Path) -> None:
    """A -wal that was deleted after a kill is missed, and what it held is made up for (fault A12)."""
    use(path)
    pid = os.fork()
    if not pid:
        try:
            provider = NonceProvider(SQLiteStore(path), "one")
            provider.raise_floor(provider.next() + 200_000)
            provider.next()
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    Path(f"{path}-wal").unlink()
    Path(f"{path}-shm").unlink()
    with SQLiteStore(path) as store, pytest.raises(StoreRolledBackError):
        NonceProvider(store, "one").next()
    rebuilt = done(path)
    (one,) = (key for key in rebuilt.keys if key.state.label == "one label")
    assert one.mark is not None
    assert one.before is not None
    assert one.state.nonce > one.mark.nonce > one.before.nonce


@given(seed=st.integers(0, 2**32))
def test_random_damage(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Whatever bytes are overwritten, no key goes on at or below its last nonce (I9, I10; fault A11)."""
    dice = random.Random(seed)
    path = tmp_path_factory.mktemp("damage") / "nonces.db"
    last = use(path)
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 3, 30])):
        start = dice.randrange(len(content))
        length = dice.choice([1, 8, 1024])
        content[start : start + length] = dice.randbytes(length)
    path.write_bytes(content[: dice.choice([len(content), len(content) // 2])])
    rebuild(path, shared=False)
    goes_on_above(path, last)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_damaged_row_without_a_mark(path: Path) -> None:
    """A key of which nothing tells the last nonce is closed until its floor is raised (I9)."""
    last = use(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET nonce = 5 WHERE label = 'two label'")
    path_of(path).unlink()
    rebuilt = done(path)
    (two,) = (key for key in rebuilt.keys if not key.before)
    assert two.mark is None
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "two")
        with pytest.raises(KeyClosedError, match="raise-floor"):
            provider.next()
        provider.raise_floor(last[provider.key])
        assert provider.next() > last[provider.key]
        assert NonceProvider(store, "one").next() > last[fingerprint("one")]


def test_nothing_is_left(path: Path) -> None:
    """Where neither a row nor a mark is left, nothing is changed: an empty start might repeat nonces."""
    use(path)
    path.write_bytes(b"\0" * 4096)
    path_of(path).unlink()
    before = contents(path)
    with pytest.raises(StoreUnavailableError, match="nothing was changed"):
        rebuild(path, shared=False)
    assert contents(path) == before


def test_program_in_a_call(path: Path) -> None:
    """As long as somebody makes calls with the store, it is not rebuilt under their feet (I5)."""
    use(path)
    path_of(path).write_bytes(b"damage" * 20)
    with SQLiteStore(path) as store:
        store.session()
        with pytest.raises(StoreUnavailableError, match="still makes calls"):
            rebuild(path, shared=False)
    assert rebuild(path, shared=False) is not None


def test_program_that_takes_nonces(path: Path) -> None:
    """Who has the old database open gets no nonce from it any more, and has to start again (I1)."""
    last = use(path)
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "one")
        provider.next()
        wait_for_tick(path.parent)
        path_of(path).write_bytes(b"damage" * 20)
        assert rebuild(path, shared=False) is not None
        with pytest.raises(StoreReplacedError):
            provider.next()
    goes_on_above(path, last)


def test_call_in_flight_and_closed_key(path: Path) -> None:
    """A call that was in flight stands in the record as interrupted, and a closed key stays closed (I5)."""
    use(path)
    pid = os.fork()
    if not pid:
        try:
            store = SQLiteStore(path)
            store.update(
                fingerprint("two"),
                lambda state, _: Changed(state._replace(closed=True, diagnosis="why")),
            )
            call = CallGate(store, "one").call("AddOrder")
            call.__enter__()  # dropped, it would end
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    path_of(path).write_bytes(b"damage" * 20)
    rebuilt = done(path)
    with SQLiteStore(path) as store:
        calls = store.calls(fingerprint("one"))
        assert (calls[0].method, calls[0].outcome) == ("AddOrder", "interrupted")
        with pytest.raises(KeyClosedError, match="why"):
            NonceProvider(store, "two").next()
    assert sum(key.state.closed for key in rebuilt.keys) == 1


def test_foreign_and_newer_databases_are_left(path: Path) -> None:
    """Somebody else's database, and one of a newer version, are refused and not touched."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (value)")
    path.chmod(0o600)
    before = contents(path)
    with pytest.raises(StoreCorruptError, match="not one of"):
        rebuild(path, shared=False)
    assert contents(path) == before
    path.unlink()
    use(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = contents(path)
    with pytest.raises(StoreVersionError):
        rebuild(path, shared=False)
    assert contents(path) == before


STEPS: tuple[tuple[object, str], ...] = (
    (os, "replace"),
    (os, "fsync"),
    (os, "unlink"),
    (place, "create_database"),
    (place, "sync"),
    (schema, "migrate"),
    (module, "replace_marks"),
    (module, "_put_in_place"),
    (module, "_build"),
)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=lambda step: str(step)[:20])
def test_death_at_any_step(
    path: Path, owner: object, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a rebuilding process dies, what it leaves refuses or goes on, and another rebuilds it (I3)."""
    use(path)
    older = path.read_bytes()
    last = use(path)
    path.write_bytes(older)
    with open(path_of(path), "r+b") as file:
        file.seek(32 * 5)
        file.write(b"damage")
    real: Callable[..., object] = getattr(owner, name)

    def die(*given: object, **named: object) -> object:
        if after:
            real(*given, **named)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(SystemExit):
            rebuild(path, shared=False)
    with SQLiteStore(path) as store:
        for key in KEYS:
            provider = NonceProvider(store, key)
            try:
                assert provider.next() > last[provider.key]
            except NonceError as error:
                assert isinstance(error, StoreRolledBackError)  # noqa: PT017 - any other error fails
    rebuild(path, shared=False)
    goes_on_above(path, last)
    assert not list(path.parent.glob("*.new*"))


def test_order_in_which_things_reach_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks are on the disk before the log goes, its end before the new database comes (I4; fault A7).

    So that a power cut leaves the old database as a whole, or one that its marks refuse, or the new one.
    """
    use(path)
    with open(path_of(path), "r+b") as file:
        file.write(b"damage")
    done: list[str] = []

    def watch(name: str, told: Callable[..., object]) -> None:
        real = getattr(os, name)

        def act(*given: object) -> object:
            done.append(f"{name} {told(*given)}")
            return real(*given)

        monkeypatch.setattr(os, name, act)

    def of(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    watch("replace", lambda old, _: Path(old).name)
    watch("unlink", lambda file: Path(file).name)
    watch("fsync", of)
    assert rebuild(path, shared=False) is not None
    place_ = path.parent.name
    end = [
        "fsync nonces.db.marks.new",
        "replace nonces.db.marks.new",
        f"fsync {place_}",
        "unlink nonces.db-wal",
        "unlink nonces.db-shm",
        f"fsync {place_}",
        "replace nonces.db.new",
        f"fsync {place_}",
    ]
    assert done[-len(end) :] == end


def test_unfinished_is_finished(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed one has built is put in place, with all that only the lost log knew; new keys since too (I3)."""
    last = use(path)
    pid = os.fork()
    if not pid:
        try:
            SQLiteStore(path).update(
                fingerprint("two"),
                lambda state, _: Changed(state._replace(closed=True, diagnosis="why")),
            )
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    path_of(path).write_bytes(b"damage" * 20)

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(module, "_put_in_place", die)
        with pytest.raises(SystemExit):
            rebuild(path, shared=False)
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    with SQLiteStore(path) as newcomer:
        for key in KEYS:
            with pytest.raises(StoreRolledBackError):
                NonceProvider(newcomer, key).next()
        new = NonceProvider(newcomer, "new")
        last[new.key] = new.next()
    rebuilt = done(path)
    assert {key.state.key for key in rebuilt.keys} == set(last)
    assert [key.state.diagnosis for key in rebuilt.keys if key.state.closed] == ["why"]
    assert not list(path.parent.glob("*.new*"))
    with SQLiteStore(path) as mended:
        with pytest.raises(KeyClosedError, match="why"):
            NonceProvider(mended, "two").next()
        for key in ("one", "three", "new"):
            provider = NonceProvider(mended, key)
            assert provider.next() > last[provider.key]


def rows_twice(path: Path, damaged: bool) -> tuple[int, int]:
    """Leave two rows of a key, the newer one first, and perhaps damaged; return the nonces of both."""
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "one")
        older = provider.next()
        with closing(sqlite3.connect(path, isolation_level=None)) as hand:
            hand.execute("CREATE TABLE of_then AS SELECT * FROM keys")
            newer = provider.raise_floor(older + 300_000)
            hand.execute("CREATE TABLE of_now AS SELECT * FROM keys")
    with closing(sqlite3.connect(path, isolation_level=None)) as hand:
        if damaged:
            hand.execute("UPDATE of_now SET nonce = nonce - 1024")
        hand.execute("DROP TABLE keys")
        hand.execute("ALTER TABLE of_now RENAME TO keys")
        hand.execute("INSERT INTO keys SELECT * FROM of_then")
        hand.execute("DROP TABLE of_then")
    path_of(path).unlink()
    return older, newer


def test_newest_of_two_rows(path: Path) -> None:
    """Where damage left two rows of a key, it goes on above the newer one, wherever that lies (I1, I10; fault A11)."""
    older, newer = rows_twice(path, damaged=False)
    (key,) = done(path).keys
    assert key.before is not None
    assert key.before.nonce == newer > older
    with SQLiteStore(path) as store:
        assert NonceProvider(store, "one").next() > newer


def test_damaged_row_beside_an_older_one(path: Path) -> None:
    """An older row beside a damaged one does not tell the last nonce: without a mark the key is closed (I9; A11)."""
    _, newer = rows_twice(path, damaged=True)
    (key,) = done(path).keys
    assert key.before is None
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "one")
        with pytest.raises(KeyClosedError, match="raise-floor"):
            provider.next()
        provider.raise_floor(newer)
        assert provider.next() > newer


def test_unknown_key_stays_closed(path: Path) -> None:
    """A key whose last nonce nobody knows is closed by the next recover too, also if its row is lost then (I9)."""
    use(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET nonce = 5 WHERE label = 'two label'")
    path_of(path).unlink()
    done(path)
    path.unlink()
    rebuilt = done(path)
    assert [key.state.closed for key in rebuilt.keys if not key.mark] == [True]
    with SQLiteStore(path) as store:
        with pytest.raises(KeyClosedError, match="raise-floor"):
            NonceProvider(store, "two").next()
        assert NonceProvider(store, "one").next()


def test_unknown_key_stays_closed_for_who_has_looked(tmp_path: Path) -> None:
    """That nobody knows a key's last nonce outlasts a look at its row, also if the row is lost then (I9).

    Found by review: a process that was only refused put the mark right, by a row that knew less.
    """
    path = tmp_path / "nonces.db"
    rows_twice(path, damaged=True)
    done(path)
    with SQLiteStore(path) as store, pytest.raises(KeyClosedError):
        NonceProvider(store, "one").next()
    path.unlink()
    (key,) = done(path).keys
    assert key.state.closed


@given(
    nonce=st.integers(0, MAX_NONCE),
    mark=st.integers(0, MAX_NONCE),
    units=st.tuples(st.sampled_from([None, *UNITS]), st.sampled_from([*UNITS])),
    wall=st.integers(-SECOND, 2**62),
    closed=st.booleans(),
)
def test_lifted_state(
    nonce: int, mark: int, units: tuple[str | None, str], wall: int, closed: bool
) -> None:
    """A lifted mark lies above row, mark and clock in the finer of the units, and a closed key stays closed (I10)."""
    unit, other = units
    state = KeyState("k", unit=unit, nonce=nonce if unit else 0, closed=closed)
    try:
        lifted = nonces.lift(state, Now(wall, 0, "b"), other, mark)
    except NonceError:
        assert max(nonce * state.tick, mark * UNITS[other], wall) // UNITS[other] >= (
            MAX_NONCE // 10**9
        )
        return
    assert lifted.tick == min(UNITS[other], state.tick if unit else UNITS[other])
    assert lifted.closed == closed
    if lifted.nonce < MAX_NONCE - 1:
        for value, tick in ((state.nonce, state.tick), (mark, UNITS[other]), (wall, 1)):
            assert lifted.nonce >= value * tick // lifted.tick
        assert (
            lifted.nonce * lifted.tick >= mark * UNITS[other] + 5 * SECOND - lifted.tick
        )
    assert lifted.ceiling >= lifted.nonce
    assert lifted.synced == 0
