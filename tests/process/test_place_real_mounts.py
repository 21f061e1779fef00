"""The place of a store on real mounts and between real users, which needs root and `unshare` (A10, A24)."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce.errors import StorePermissionError, StoreUnavailableError
from persistent_nonce.stores import place

ROOT: Final = Path(__file__).parents[2]

#: Users and a group that no machine has; numbers are enough for the kernel.
ANN: Final = 61_001
BEN: Final = 61_002
EVE: Final = 61_003
BOTS: Final = 61_100

#: Goes through all that a store does with its place, and prints the outcome and what lies in the directory then.
PROGRAM: Final = """
import logging, os, sys
from pathlib import Path
from persistent_nonce.errors import NonceError
from persistent_nonce.stores import place

path, options = Path(sys.argv[1]), sys.argv[2:]
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
try:
    place.check_filesystem(path, implicit="implicit" in options, trust="trust" in options)
    real = place.prepare(path, shared=False, create=False)
    os.close(place.open_beside(real, ".lock", shared=False))
    place.create_database(real, shared=False)
    print("accepted")
except NonceError as error:
    print(type(error).__name__, error)
print(sorted(os.listdir(path.parent)))
"""


def mounting_works() -> bool:
    """Return whether this process may make mounts of its own."""
    if not shutil.which("unshare") or not shutil.which("mount"):
        return False
    trial = ["unshare", "-m", "mount", "-t", "tmpfs", "none", tempfile.gettempdir()]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


MOUNTS: Final = pytest.mark.skipif(
    not mounting_works(), reason="NOT RUN: no right to make mounts (unshare -m)"
)
USERS: Final = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT RUN: only root can become other users"
)


def visit(directory: Path, setup: str, name: str, *options: str) -> list[str]:
    """Run PROGRAM on `name` in `directory`, in a mount namespace prepared by the shell commands `setup`.

    Returns:
        its lines: a warning if there was one, the outcome, and the list of files.
    """
    script = f'{setup}\nexec "$0" -c "$1" "$PWD/{name}" $2'
    shell = ["unshare", "-m", "sh", "-euc", script]
    done = subprocess.run(
        [*shell, sys.executable, PROGRAM, " ".join(options)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


TMPFS: Final = "mkdir state; mount -t tmpfs none state; chmod 700 state"
OVERLAY: Final = (
    "mkdir disk; mount -t tmpfs none disk; cd disk; mkdir low up work state\n"
    "mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work state"
)
MADE: Final = "['nonces.db', 'nonces.db.lock']"


@MOUNTS
@pytest.mark.parametrize(("setup", "kind"), [(TMPFS, "tmpfs"), (OVERLAY, "overlay")])
def test_passing_file_system(tmp_path: Path, setup: str, kind: str) -> None:
    """A file system that goes with its container is taken if chosen, refused before any write if not."""
    for name in ("chosen", "implicit"):
        (tmp_path / name).mkdir()
    lines = visit(tmp_path / "chosen", setup, "state/nonces.db")
    assert lines == ["accepted", MADE]
    outcome, files = visit(tmp_path / "implicit", setup, "state/nonces.db", "implicit")
    assert outcome.startswith("StoreUnsupportedError")
    assert f"type '{kind}'" in outcome
    assert "PERSISTENT_NONCE_DB" in outcome
    assert files == "[]"


@MOUNTS
@pytest.mark.parametrize("options", [(), ("trust",), ("implicit",)])
@pytest.mark.parametrize("file", ["nonces.db", "nonces.db.lock"])
def test_single_file_mount(tmp_path: Path, file: str, options: tuple[str, ...]) -> None:
    """A file mounted by itself is refused, whatever is asked for: its -wal would lie beside the mount point."""
    setup = (
        f"mkdir state; touch outside state/{file}; mount --bind outside state/{file}"
    )
    outcome, files = visit(tmp_path, setup, "state/nonces.db", *options)
    assert outcome.startswith("StoreUnsupportedError")
    assert "is a mount point itself" in outcome
    assert files == f"['{file}']"


@MOUNTS
def test_mounted_directory(tmp_path: Path) -> None:
    """A directory mounted from the same kernel is fine, under a name with blanks and a backslash too."""
    setup = "mkdir 'a b\\c' outside; mount --bind outside 'a b\\c'"
    assert visit(tmp_path, setup, "a b\\c/nonces.db") == ["accepted", MADE]
    assert (tmp_path / "outside" / "nonces.db").exists()


@MOUNTS
def test_odd_mount_point_is_found(tmp_path: Path) -> None:
    """What is mounted on such a name counts, as the refusal of its type shows."""
    setup = "mkdir 'a b\\c'; mount -t ramfs none 'a b\\c'; chmod 700 'a b\\c'"
    outcome, _ = visit(tmp_path, setup, "a b\\c/nonces.db", "implicit")
    assert "type 'ramfs'" in outcome


@MOUNTS
def test_override_is_logged(tmp_path: Path) -> None:
    """With the override the place is used, and one warning says so."""
    warning, *rest = visit(tmp_path, TMPFS, "state/nonces.db", "implicit", "trust")
    assert warning.startswith("WARNING ")
    assert "type 'tmpfs'" in warning
    assert rest == ["accepted", MADE]


@MOUNTS
def test_hidden_mount(tmp_path: Path) -> None:
    """A mount that a later one hides is not taken for the place's own."""
    setup = (
        "mkdir -p a/state; mount -t ramfs none a/state; mount -t tmpfs none a\n"
        "mkdir -m 700 a/state"
    )
    outcome, _ = visit(tmp_path, setup, "a/state/nonces.db", "implicit")
    assert "type 'tmpfs'" in outcome


@MOUNTS
@pytest.mark.parametrize(
    ("mount", "fault"),
    [
        (
            "mount --bind state state; mount -o remount,bind,ro state",
            "read-only file system",
        ),
        ("mount -t tmpfs -o nr_inodes=1,mode=700 none state", "the disk is full"),
    ],
    ids=["read-only", "full"],
)
def test_no_file_can_be_made(tmp_path: Path, mount: str, fault: str) -> None:
    """A read-only mount, and a disk without room for another file, are named as what they are."""
    outcome, files = visit(tmp_path, f"mkdir state; {mount}", "state/nonces.db")
    assert outcome.startswith("StoreUnavailableError")
    assert f"nonces.db.lock': {fault}; no nonce was issued" in outcome
    assert files == "[]"


def test_no_descriptor_left(tmp_path: Path) -> None:
    """A process that may open nothing more is told so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(StoreUnavailableError, match="no file descriptor left"):
            place.open_beside(tmp_path / "nonces.db", ".lock", shared=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def user(number: int, *groups: int) -> Iterator[None]:
    """Act as another user, in a group of its own and in `groups`."""
    before = os.getgroups(), os.getegid()
    os.setgroups(groups)
    os.setegid(number)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[0])


@pytest.fixture
def database() -> Iterator[Path]:
    """Return the path of a database in a directory of ANN's, on a way that is open to all users."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made).resolve()
        root.chmod(0o755)
        state = root / "state"
        state.mkdir(0o755)
        os.chown(state, ANN, ANN)
        yield state / "nonces.db"


def make(path: Path, *, shared: bool = False) -> Path:
    """Do all that a store does with its place, and return the real path."""
    real = place.prepare(path, shared=shared, create=False)
    os.close(place.open_beside(real, ".lock", shared=shared))
    place.create_database(real, shared=shared)
    place.make_directory(Path(f"{real}.sessions"), shared=shared)
    return real


@USERS
def test_foreign_directory(database: Path) -> None:
    """A directory of another user's is refused to everybody else, root too, unless it is root's."""
    for number in (BEN, 0):
        with (
            user(number),
            pytest.raises(StorePermissionError, match=f"belongs to user {ANN}"),
        ):
            make(database)
    assert not list(database.parent.iterdir())
    os.chown(database.parent, 0, 0)
    with user(BEN), pytest.raises(StorePermissionError, match="permission denied"):
        make(database)


@USERS
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock", ".sessions"])
def test_foreign_file(database: Path, suffix: str) -> None:
    """Any file of the store that another user owns is refused, by name."""
    file = Path(f"{database}{suffix}")
    file.mkdir(0o700) if suffix == ".sessions" else file.touch(0o600)
    os.chown(file, BEN, BEN)
    with user(ANN), pytest.raises(StorePermissionError) as caught:
        make(database)
    assert str(caught.value).startswith(f"{str(file)!r} (mode 0")
    assert f"belongs to user {BEN}, and this is user {ANN}" in str(caught.value)


@USERS
@pytest.mark.parametrize("mode", [0o000, 0o500, 0o600])
def test_mode_without_access(database: Path, mode: int) -> None:
    """A directory whose mode keeps its owner out is named with its mode, the path and the user."""
    database.parent.chmod(mode)
    with user(ANN), pytest.raises(StorePermissionError) as caught:
        make(database)
    said = str(caught.value)
    assert f"permission denied to user {ANN}" in said
    assert f"{str(database.parent)!r} has mode {mode:04o}" in said
    assert str(database) in said


@USERS
def test_frozen_lock_file(database: Path) -> None:
    """A lock file that its owner may not write is named with its mode."""
    with user(ANN):
        make(database)
        lock = Path(f"{database}.lock")
        lock.chmod(0o400)
        with pytest.raises(StorePermissionError, match="mode 0400"):
            make(database)


@USERS
def test_group(database: Path) -> None:
    """A group shares a store through a setgid directory: 0660, each user's files are of the group; nobody else."""
    os.chown(database.parent, ANN, BOTS)
    database.parent.chmod(0o2770)
    before = os.umask(0o077)
    try:
        for number in (ANN, BEN):
            with user(number, BOTS):
                assert make(database, shared=True) == database
                descriptor = place.open_beside(database, ".lock", shared=True)
                assert os.fstat(descriptor).st_uid == ANN
                os.close(descriptor)
                os.close(os.open(database, os.O_RDWR))
    finally:
        os.umask(before)
    for file in database.parent.iterdir():
        found = file.stat()
        expected = 0o2770 if file.is_dir() else 0o660
        assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (BOTS, expected)
    for shared in (False, True):
        with user(EVE), pytest.raises(StorePermissionError):
            make(database, shared=shared)
    with user(BEN, BOTS), pytest.raises(StorePermissionError, match="share the store"):
        make(database)
