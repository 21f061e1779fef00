"""Whether a store's files are still the ones it opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from persistent_nonce.errors import StoreReplacedError
from persistent_nonce.stores.identity import Files
from tests.support.files import wait_for_tick

SUFFIXES = ("", ".lock", ".marks", "-wal", "-shm")


def delete(path: Path) -> None:
    """Remove the file."""
    path.unlink()


def rename(path: Path) -> None:
    """Move the file away."""
    path.rename(path.with_suffix(".moved"))


def replace(path: Path) -> None:
    """Put a copy in the file's place."""
    copy = path.with_suffix(".copy")
    shutil.copy2(path, copy)
    copy.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database with its files, which are some time old."""
    path = tmp_path / "state" / "n.db"
    path.parent.mkdir()
    for suffix in SUFFIXES:
        Path(f"{path}{suffix}").touch()
    return path


def _old(path: Path) -> Files:
    """Return the recorded files of a directory that has been quiet for long."""
    files = Files(path)
    files.record()
    files.check()
    return files


def test_unchanged_files_pass(path: Path) -> None:
    """Files that are as they were recorded pass, however often one looks, and so do new neighbours."""
    files = _old(path)
    (path.parent / "other").touch()
    os.truncate(path, 5)
    for _ in range(3):
        files.check()


@pytest.mark.parametrize("fault", [delete, rename, replace])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_fault_of_each_file_is_noticed(
    path: Path, suffix: str, fault: Callable[[Path], None]
) -> None:
    """A file that is deleted, renamed or replaced is named in the error, at every look from then on (A12, A13)."""
    files = _old(path)
    fault(Path(f"{path}{suffix}"))
    for _ in range(2):
        with pytest.raises(StoreReplacedError, match="no nonce was issued") as caught:
            files.check()
        assert str(caught.value).startswith(f"{path}{suffix} was deleted or replaced")


def test_restored_directory_time_deceives_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup put back with all its times, as rsync -a and tar do, is noticed: nobody can set what is compared."""
    monkeypatch.setattr("persistent_nonce.stores.identity._GRAIN", -1)
    files = _old(path)
    files.check()  # has seen a quiet directory
    before = path.parent.stat()
    wait_for_tick(path.parent)
    replace(path)
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.parent.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(StoreReplacedError):
        files.check()


def test_replaced_directory_is_noticed(path: Path) -> None:
    """A directory that is moved away, with a copy in its place, is noticed."""
    files = _old(path)
    moved = path.parent.with_suffix(".moved")
    path.parent.rename(moved)
    shutil.copytree(moved, path.parent)
    with pytest.raises(StoreReplacedError):
        files.check()


def test_lock_file_is_the_one_that_is_held(path: Path) -> None:
    """An open lock file that is no longer the one at its path admits nobody."""
    files = Files(path)
    lock = Path(f"{path}.lock")
    descriptor = os.open(lock, os.O_RDWR)
    try:
        files.check_lock(descriptor)
        replace(lock)
        with pytest.raises(StoreReplacedError, match="lock was deleted or replaced"):
            files.check_lock(descriptor)
    finally:
        os.close(descriptor)
