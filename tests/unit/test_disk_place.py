"""A whole store, and its rebuilding, in a place that cannot be trusted: refused before anything is written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.errors import StorePermissionError, StoreUnsupportedError
from persistent_nonce.stores import place
from persistent_nonce.stores.filesystems import check_filesystem
from persistent_nonce.stores.rebuild import rebuild
from tests.support import databases
from tests.support.commands import listing
from tests.support.disk_faults import beside
from tests.support.disk_ledger import findings

path = databases.path

KINDS: Final = ("nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs")


@pytest.fixture
def mounted(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what lets the directory of the database seem to be mounted, of some kind."""

    def mount(kind: str) -> None:
        info = path.parent.parent / "mountinfo"
        info.write_text(
            "1 0 0:1 / / rw - ext4 disk rw\n"
            f"2 1 0:2 / {path.parent} rw - {kind} server:/export rw\n"
        )
        look = partial(check_filesystem, mountinfo=str(info))
        monkeypatch.setattr(place, "check_filesystem", look)

    return mount


def take(path: Path, *, trust: bool = False) -> int:
    """Take a nonce with a new store."""
    with SQLiteStore(path, trust_filesystem=trust) as store:
        return NonceProvider(store, "key", unit="ns").next()


@pytest.mark.parametrize("kind", KINDS)
def test_network_file_system(
    path: Path,
    mounted: Callable[[str], None],
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a file system of another machine's nothing is opened, made or rebuilt, unless somebody insists (I9; A24)."""
    mounted(kind)
    for use in (lambda: take(path), lambda: rebuild(path, shared=False)):
        with pytest.raises(StoreUnsupportedError, match=f"type '{kind}'") as caught:
            use()
        assert caught.value.hint
    assert listing(path.parent) == []
    (found, *_) = findings(path)
    assert found.startswith("file system: ")
    assert f"type '{kind}'" in found
    first = take(path, trust=True)
    (warning,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert f"type '{kind}'" in warning.getMessage()
    mounted("ext4")
    assert take(path) > first


def _symbolic_link(file: Path) -> None:
    file.rename(f"{file}.elsewhere")
    file.symlink_to(f"{file}.elsewhere")


def _hard_link(file: Path) -> None:
    os.link(file, f"{file}.elsewhere")


def _for_everybody(file: Path) -> None:
    file.chmod(0o666)


def _directory_for_everybody(file: Path) -> None:
    file.parent.chmod(0o1777)


@pytest.mark.parametrize("suffix", ["", ".marks", ".lock"])
@pytest.mark.parametrize(
    "trick", [_symbolic_link, _hard_link, _for_everybody, _directory_for_everybody]
)
def test_file_of_unknown_hands(
    path: Path, suffix: str, trick: Callable[[Path], None]
) -> None:
    """A link, or what everybody may write, is refused and left as it is by stores, recover and doctor (I9; A30)."""
    take(path)
    trick(beside(path, suffix))
    before = [file.read_bytes() for file in sorted(path.parent.iterdir()) if file.is_file()]  # fmt: skip
    for use in (lambda: take(path), lambda: rebuild(path, shared=False)):
        with pytest.raises(StorePermissionError) as caught:
            use()
        assert caught.value.hint
    assert any(found.startswith("permissions: ") for found in findings(path))
    after = [file.read_bytes() for file in sorted(path.parent.iterdir()) if file.is_file()]  # fmt: skip
    assert after == before
