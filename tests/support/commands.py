"""Commands of the command line, run in this process, and what a directory holds before and after.

A test module has the fixtures below by giving them its own names, as in
`database, ran = commands.database, commands.ran`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from persistent_nonce import CallGate, Rate, SQLiteStore
from persistent_nonce.cli import main
from persistent_nonce.state import Changed, KeyState, fingerprint
from persistent_nonce.stores.reader import Reader

__all__ = ["Ran", "Runner", "database", "fails", "listing", "ran", "run"]


class Ran(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it wrote, read as JSON."""
        return json.loads(self.out)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """Run a command and return what came of it."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return Ran(code, out, err)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that fails as commands do, and return its error."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+ \([^\n]+\)\n", err)
    assert err[:-1].isprintable()
    return err


class Runner:
    """Runs commands on a database."""

    def __init__(self, capsys: pytest.CaptureFixture[str], database: Path) -> None:
        self._capsys = capsys
        self.database = database

    def __call__(self, *arguments: object) -> Ran:
        """Run a command."""
        return run(self._capsys, *arguments, "--db", self.database)

    def state(self, key: str = "key") -> KeyState:
        """Return what is stored of a key."""
        reader = Reader(self.database)
        try:
            return reader.read(fingerprint(key))
        finally:
            reader.close()

    def fails(self, *arguments: object) -> str:
        """Run a command that fails with one line, and return that."""
        return fails(self._capsys, *arguments, "--db", self.database)

    def close_key(self) -> None:
        """Have the key closed, as after refused nonces."""
        with SQLiteStore(self.database) as store:

            def change(state: KeyState, now: object) -> Changed:
                return Changed(state._replace(closed=True, diagnosis="so", refusals=3))

            store.update(fingerprint("key"), change)


def listing(directory: Path) -> list[tuple[str, int]]:
    """Return the names and inodes of everything in a directory."""
    return sorted(
        (str(path.relative_to(directory)), path.lstat().st_ino)
        for path in directory.rglob("*")
    )


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a closed database with the key `main`, which made two calls, one of them in doubt."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        gate = CallGate(store, "key", label="main", rate=Rate(3.0, 14), min_interval=0)
        with gate.call("Balance"):
            pass
        with gate.call("AddOrder") as call:
            call.settle("unknown")
    return path


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str], database: Path) -> Runner:
    """Run commands on that database."""
    return Runner(capsys, database)
