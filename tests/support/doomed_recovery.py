"""`recover` killed at each of its points, on databases in need of it; then programs, and another `recover`."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import sqlite_utils.migrations  # noqa: F401 - a child that rebuilds has it by now

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.errors import KeyClosedError, StoreError
from persistent_nonce.state import Changed, KeyState, fingerprint
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.rebuild import rebuild
from tests.support.doomed_works import Tell
from tests.support.killing import Doom, forked

__all__ = ["SCENES", "recovery_series"]

#: The API keys; the last is closed in the log alone.
_KEYS: Final = ("one", "two", "shut")

_WHY: Final = "closed on purpose"

#: What acts on files without SQLite: all in which a new database comes into its place.
_ACTS: Final = frozenset(
    """open close unlink remove replace rename fsync pwrite write truncate ftruncate fchmod chmod utime sendfile
    copy_file_range""".split()  # noqa: SIM905 - as a list it would fill a page
)


class _OfFiles(Doom):
    """A doom that strikes at what acts on files only, unless every point is wanted."""

    def __init__(self, number: int, tell: Tell, *, every: bool) -> None:
        super().__init__(number, tell)
        self._every = every

    def _pass(self, point: str) -> None:
        if self._every or point.rsplit(" ", 1)[1] in _ACTS:
            super()._pass(point)


# --- what is wrong with a database; each takes its path


def _flip_mark(path: Path, key: str) -> None:
    content = bytearray(path_of(path).read_bytes())
    content[content.index(bytes.fromhex(fingerprint(key))) + 17] ^= 2
    path_of(path).write_bytes(content)


def _flip_row(path: Path, key: str) -> None:
    """Damage a row in the log; the database behind it still has an older one that is whole."""

    def flip(_: Tell) -> None:
        hand = sqlite3.connect(path)
        hand.execute(
            "UPDATE keys SET nonce = nonce - 1024 WHERE key = ?", (fingerprint(key),)
        )
        hand.commit()
        os.kill(os.getpid(), signal.SIGKILL)

    forked(flip)


def mark(path: Path) -> None:
    """Damage a mark."""
    _flip_mark(path, "one")


def row(path: Path) -> None:
    """Damage a row."""
    _flip_row(path, "one")


def row_and_mark(path: Path) -> None:
    """Damage the row and the mark of a key, so that nothing tells its last nonce."""
    _flip_mark(path, "one")
    _flip_row(path, "one")


def row_and_marks(path: Path) -> None:
    """Damage a row, and lose the marks."""
    _flip_row(path, "one")
    path_of(path).unlink()


def missing(path: Path) -> None:
    """Lose the database, but not its log."""
    path.unlink()


def noise(path: Path) -> None:
    """Overwrite the database, and lose its index; the log stays."""
    path.write_bytes(b"no database" * 2000)
    Path(f"{path}-shm").unlink()


def log(path: Path) -> None:
    """Lose the log."""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()


#: Each with whether the key that was closed is known to be.
SCENES: Final[dict[str, tuple[Callable[[Path], None], bool]]] = {
    "mark": (mark, True),
    "row": (row, True),
    "row and mark": (row_and_mark, True),
    "row and marks": (row_and_marks, True),
    "missing": (missing, False),
    "noise": (noise, False),
    "log": (log, False),
}


def _use(path: Path, tell: Tell) -> None:
    """Use all keys, far ahead of the clock, twice: what came last is in the log alone when this process is killed."""
    for _ in range(2):
        store = SQLiteStore(path)
        for key in _KEYS:
            provider = NonceProvider(store, key, label=key)
            provider.raise_floor(provider.next() + 300_000)
            tell(f"{key} {provider.next()}")
        if _:
            store.update(fingerprint(_KEYS[-1]), _shut)
            os.kill(os.getpid(), signal.SIGKILL)
        store.close()


def _shut(state: KeyState, _: object) -> Changed:
    return Changed(state._replace(closed=True, diagnosis=_WHY))


class _Trial:
    """Copies of a database in need of `recover`, one after the other.

    Attributes:
        wrong: what was found to be.
    """

    def __init__(self, scene: str, directory: Path) -> None:
        harm, self._closed = SCENES[scene]
        self._original = directory / "original"
        self._original.mkdir(0o700)
        self._copy = directory / "copy"
        self._path = self._copy / "nonces.db"
        self.wrong: list[str] = []
        path = self._original / "nonces.db"
        lines, _ = forked(partial(_use, path))
        self._used = dict(line.split() for line in lines)
        assert set(self._used) == set(_KEYS), lines
        harm(path)

    def kill(self, number: int, *, every: bool) -> list[str]:
        """Kill `recover` at a point of a fresh copy; return what it told."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._original, self._copy)
        self._greatest = {key: int(nonce) for key, nonce in self._used.items()}

        def work(tell: Tell) -> None:
            with _OfFiles(number, tell, every=every):
                rebuild(self._path, shared=False)

        lines, killed = forked(work)
        self._demand(killed or lines[-1] == "end", f"at {number}: {lines[-1:]}")
        return lines

    def go_on(self, point: str) -> None:
        """Have programs come, then another `recover`, then programs: refused at first perhaps, but never lower."""
        self._do(f"{point}: programs", self._draw)
        self._do(f"{point}: recover", lambda _: rebuild(self._path, shared=False))
        self._do(f"{point}: programs after it", partial(self._draw, strict=True))
        self._do(f"{point}: recover again", self._is_mended)
        left = [file.name for file in self._copy.iterdir() if ".new" in file.name]
        self._demand(not left, f"{point}: {left} are left")

    def _do(self, what: str, work: Callable[[Tell], object]) -> None:
        lines, killed = forked(work)
        if killed or lines[-1] != "end":
            self.wrong.append(f"{what}: {lines[-1:]}")
        for line in lines:
            key, _, nonce = line.partition(" ")
            if key not in self._greatest:
                continue
            if int(nonce) <= self._greatest[key]:
                self.wrong.append(f"{what}: {line} after {self._greatest[key]}")
            self._greatest[key] = max(self._greatest[key], int(nonce))

    def _draw(self, tell: Tell, *, strict: bool = False) -> None:
        """Take a nonce of each key with a new store; with `strict` nothing may be refused any more."""
        try:
            store = SQLiteStore(self._path)
        except StoreError:
            if strict:
                raise
            return
        for key in _KEYS:
            try:
                self._draw_one(NonceProvider(store, key), key, tell)
            except KeyClosedError as error:
                if key != _KEYS[-1] or _WHY not in str(error):
                    raise
            except StoreError:
                if strict:
                    raise
            else:
                if strict and key == _KEYS[-1] and self._closed:
                    raise AssertionError("a key that was closed goes on")

    def _is_mended(self, _: Tell) -> None:
        assert rebuild(self._path, shared=False) is None

    def _draw_one(self, provider: NonceProvider, key: str, tell: Tell) -> None:
        """Take a nonce, once the floor is raised of a key whose last one nobody knows."""
        try:
            nonce = provider.next()
        except KeyClosedError as error:
            if "raise-floor above it" not in str(error):
                raise
            provider.raise_floor(self._greatest[key])
            nonce = provider.next()
        tell(f"{key} {nonce}")

    def _demand(self, held: bool, what: str) -> None:
        if not held:
            self.wrong.append(what)


def recovery_series(scene: str, directory: str, every: bool) -> dict[str, Any]:
    """Kill `recover` at each point, until it comes to its end unharmed.

    Args:
        scene: of SCENES, what was wrong.
        directory: where the databases are made.
        every: also at the points within SQLite's work on the new database.

    Returns:
        The points at which it died, in order, and what was wrong.
    """
    logging.disable()
    trial = _Trial(scene, Path(directory))
    points: list[str] = []
    ended = False
    while not ended and not trial.wrong:
        lines = trial.kill(len(points) + 1, every=every)
        ended = "end" in lines
        points += _points(lines)
        trial.go_on(f"{len(points)}, {points[-1:]}")
    return {"points": points, "wrong": trial.wrong}


def _points(lines: Iterable[str]) -> list[str]:
    return [line[6:] for line in lines if line.startswith("point ")]
