"""The default store: where it lies, and whom it is for."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from persistent_nonce import NonceProvider, open_store
from persistent_nonce.errors import StoreUnavailableError, StoreUnsupportedError
from persistent_nonce.stores import place


def mode(path: Path) -> int:
    """Return the permissions of a file or directory."""
    return path.stat().st_mode & 0o7777


def test_the_place_of_the_user_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable it lies in the home of the passwd database, whatever HOME says, for the owner alone."""
    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    home = SimpleNamespace(pw_dir=str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: home)
    with open_store() as store:
        NonceProvider(store, "k").next()
        assert store.path.is_relative_to(tmp_path)
        assert mode(store.path.parent) == 0o700
        assert mode(store.path) == 0o600
    with open_store() as again:
        assert again.keys() != []


@pytest.mark.parametrize(("directory", "file"), [(0o700, 0o600), (0o2770, 0o660)])
def test_a_named_place_is_shared_if_its_directory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: int, file: int
) -> None:
    """The directory of the named database decides whether a group may use it: programs need not agree on that."""
    place_ = tmp_path / "place"
    place_.mkdir()
    place_.chmod(directory)
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(place_ / "nonces.db"))
    with open_store() as store:
        assert store.path == Path(os.path.realpath(place_)) / "nonces.db"
        assert mode(store.path) == file


def test_a_named_directory_that_is_missing_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount that is missing: nothing is created in its place."""
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "mount" / "nonces.db"))
    with pytest.raises(StoreUnavailableError, match="no directory"):
        open_store()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_does_not_last_is_refused_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether somebody chose the place is passed on to the check of its file system."""
    asked = []

    def refuse(path: Path, *, implicit: bool, trust: bool) -> None:
        asked.append((path, implicit, trust))
        raise StoreUnsupportedError("overlay", "mount a directory")

    monkeypatch.setattr(place, "check_filesystem", refuse)
    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    with pytest.raises(StoreUnsupportedError):
        open_store()
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(tmp_path / "nonces.db"))
    with pytest.raises(StoreUnsupportedError):
        open_store()
    assert [implicit for _, implicit, _ in asked] == [True, False]
    assert asked[1] == (tmp_path / "nonces.db", False, False)
