"""Disks of a child's own, which nobody else sees: filled, freed, failing; started by `tests.support.processes`."""

from __future__ import annotations

import os
import resource
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

from persistent_nonce import SQLiteStore
from persistent_nonce.errors import StoreError
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.reader import Reader
from persistent_nonce.stores.rebuild import rebuild
from tests.support.disk_ledger import KEYS, Ledger, findings
from tests.support.power_disk import enter_private_mounts
from tests.support.workers import Shifted

__all__ = [
    "fail_the_disk",
    "fill_and_free",
    "open_on_full",
    "open_on_read_only",
    "outgrow_a_limit",
    "recover_on_full",
    "run_out_of_descriptors",
]

_BLOCK: Final = bytes(4096)


def _shell(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def _small_disk(directory: Path, kib: int) -> Path:
    """Mount a disk of so many KiB on `directory`, seen by this process alone; return the path of a database on it."""
    enter_private_mounts()
    _shell("mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=700", "none", directory)
    return directory / "nonces.db"


def _fill(file: Path) -> None:
    """Write until nothing more can be written."""
    with suppress(OSError), open(file, "wb", buffering=0) as ballast:
        while True:
            ballast.write(_BLOCK)


def _messages(errors: list[StoreError]) -> list[str]:
    return [f"{type(error).__name__}: {error}" for error in errors]


def fill_and_free(directory: str, cycles: int, kib: int) -> dict[str, object]:
    """Fill the disk of a database in use, go on, and free it, so many times; return what was seen."""
    path = _small_disk(Path(directory), kib)
    ballast = path.with_name("ballast")
    said: Counter[str] = Counter()
    doctored: Counter[bool] = Counter()
    ledger = Ledger()
    with SQLiteStore(path) as store:
        ledger.begin(store)
        for _ in range(cycles):
            _fill(ballast)
            said.update(_messages(ledger.attempt(store, 100)))
            said.update(_messages(ledger.open_and_attempt(path)))
            for key in KEYS:
                reader = Reader(path)  # a program that only shows
                kept = fingerprint(key)
                assert reader.read(kept).nonce >= ledger.greatest[key]
                assert store.read(kept).nonce >= ledger.greatest[key]
                reader.close()
            found = "".join(findings(path))
            doctored["the disk is full" in found] += 1
            ballast.unlink()
            ledger.take(store, 3)
            ledger.call(store)
            ledger.open_and_take(path)
            assert not findings(path)
        state = store.read(fingerprint(KEYS[0]))
        assert state.running is None
        assert state.queue == ()
    return {
        "said": said,
        "issued": ledger.issued,
        "doctor": doctored[True],
        "left": os.stat(path).st_size,
    }


def open_on_full(directory: str, kib: int) -> list[list[str]]:
    """Open a database on a full disk: one that is new, one that was closed; return what was said, step by step."""
    path = _small_disk(Path(directory), kib)
    ballast = path.with_name("ballast")
    ledger = Ledger()
    _fill(ballast)
    said = [_messages(ledger.open_and_attempt(path))]
    ballast.unlink()
    with SQLiteStore(path) as store:
        ledger.begin(store)
    _fill(ballast)
    said += [_messages(ledger.open_and_attempt(path)), findings(path)]
    reader = Reader(path)
    assert reader.read(fingerprint(KEYS[1])).nonce == ledger.greatest[KEYS[1]]
    reader.close()
    ballast.unlink()
    ledger.open_and_take(path)
    return [*said, findings(path)]


def recover_on_full(directory: str, kib: int) -> list[str]:
    """Rebuild a database with less and less room for it, then with enough; return what was said."""
    path = _small_disk(Path(directory), kib)
    ballast = path.with_name("ballast")
    ledger, said = Ledger(), []
    with SQLiteStore(path) as store:
        ledger.begin(store)
    marks = path.with_name(path.name + ".marks")
    marks.write_bytes(b"damage" * 20)
    Path(f"{path}.sessions").mkdir(exist_ok=True)
    files = {
        file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()
    }
    _fill(ballast)
    while True:
        try:
            rebuilt = rebuild(path, shared=False)
        except StoreError as error:
            said += _messages([error])
            for file, content in files.items():
                assert file.read_bytes() == content
            assert len(list(path.parent.iterdir())) == len(files) + 2
            os.truncate(ballast, ballast.stat().st_size - len(_BLOCK))
        else:
            assert rebuilt is not None
            assert all(key.before for key in rebuilt.keys)
            assert rebuilt.calls == 1
            break
    ballast.unlink()
    ledger.open_and_take(path)
    return said


def open_on_read_only(directory: str) -> list[list[str]]:
    """Open a database whose disk was mounted read-only meanwhile, and read-write again; return what was said."""
    path = _small_disk(Path(directory), 512)
    ledger = Ledger()
    with SQLiteStore(path) as store:
        ledger.begin(store)
    _shell("mount", "-o", "remount,ro", directory)
    before = sorted(os.listdir(directory))
    said = [_messages(ledger.open_and_attempt(path)), findings(path)]
    reader = Reader(path)
    assert reader.read(fingerprint(KEYS[1])).nonce == ledger.greatest[KEYS[1]]
    reader.close()
    assert sorted(os.listdir(directory)) == before
    _shell("mount", "-o", "remount,rw", directory)
    ledger.open_and_take(path)
    return [*said, findings(path)]


def fail_the_disk(directory: str) -> list[list[str]]:
    """Have the kernel make a disk read-only under a database in use, and mend it; return what was said."""
    enter_private_mounts()
    image, mount = Path(directory) / "image", Path(directory) / "mount"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(8 << 20)
    _shell("mkfs.ext4", "-q", image)
    _shell("mount", "-o", "loop,errors=remount-ro", image, mount)
    mount.chmod(0o700)
    path = mount / "nonces.db"
    ledger, store = Ledger(), SQLiteStore(path)
    ledger.begin(store)
    device = Path(os.path.realpath(f"/sys/dev/block/{_device(mount)}")).name
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("a test's")
    said = [_messages(ledger.attempt(store, 3))]
    said.append(_messages(ledger.open_and_attempt(path)))
    last = store.read(fingerprint(KEYS[1])).nonce
    assert last >= ledger.greatest[KEYS[1]]
    with suppress(StoreError):
        store.close()
    _shell("umount", mount)
    subprocess.run(["e2fsck", "-p", "-f", image], check=False, capture_output=True)  # noqa: S607 - the system's own
    _shell("mount", "-o", "loop", image, mount)
    # The kernel dropped what was not on the disk yet, as a power cut would: only another boot is known to do that.
    with SQLiteStore(path, clock=Shifted(0, "the next boot")) as again:
        ledger.take(again)
    return said


def _device(mount: Path) -> str:
    number = mount.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def outgrow_a_limit(path: str, kib: int) -> list[str]:
    """Let no file of this process grow above a limit, as a quota does, until it is lifted; return what was said."""
    ledger = Ledger()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SQLiteStore(path) as store:
        ledger.begin(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, hard))
        said = _messages(ledger.attempt(store, 400))
        assert store.read(fingerprint(KEYS[0])).nonce >= ledger.greatest[KEYS[0]]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        ledger.take(store, 3)
    ledger.open_and_take(Path(path))
    return said


def run_out_of_descriptors(path: str) -> list[list[str]]:
    """Go on, and open, with no descriptor, then with one more at each try; return what openings said."""
    ledger = Ledger()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = []
    with SQLiteStore(path) as store:
        ledger.begin(store)
    ledger.open_and_take(Path(path))  # all that is imported late is there now
    lowest = os.dup(0)
    os.close(lowest)
    for more in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, hard))
        said.append(_messages(ledger.open_and_attempt(Path(path))))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with SQLiteStore(path) as store:
        ledger.take(store)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        ledger.take(store, 50)  # whoever has it open needs no more
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ledger.open_and_take(Path(path))
    return said
