"""Whoever rebuilds may die at any step: what is left refuses or goes on, and the next one comes to the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from persistent_nonce.errors import KeyClosedError, NonceError, StoreRolledBackError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, fingerprint
from persistent_nonce.stores import place, schema
from persistent_nonce.stores import rebuild as module
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.rebuild import rebuild
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.rebuilding import KEYS, done, goes_on_above, use

path = databases.path

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
