"""`persistent-nonce recover`, as an operator meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from persistent_nonce.cli import main
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.sqlite import SQLiteStore

KEY = "an API key"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database that an older copy was put in place of."""
    tmp_path.chmod(0o700)
    path = tmp_path / "nonces.db"
    take(path)
    older = path.read_bytes()
    take(path)
    path.write_bytes(older)
    return path


def take(path: Path) -> int:
    """Take a nonce."""
    with SQLiteStore(path) as store:
        return NonceProvider(store, KEY, unit="us", label="bot").next()


def run(path: Path, *words: str) -> int:
    """Run a command on the database."""
    return main([*words, "--db", str(path)])


def test_from_the_refusal_to_the_next_nonce(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal names the command, doctor finds the cause, recover tells what it did, and the bot goes on."""
    assert run(path, "next", "bot") == 2
    assert "run: persistent-nonce recover" in capsys.readouterr().err
    assert run(path, "doctor") == 1
    said = capsys.readouterr().out
    assert "the database went back" in said
    assert "run: persistent-nonce recover" in said
    assert run(path, "recover") == 0
    said = capsys.readouterr().out
    assert f"key {fingerprint(KEY)} 'bot': goes on above " in said
    assert "from its row and mark" in said
    assert "it is kept as" in said
    assert KEY not in said
    assert run(path, "doctor") == 0
    assert run(path, "recover") == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert take(path)


def test_recovery_as_data(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json each key stands with its sources, and its nonces as strings."""
    path.unlink()
    assert run(path, "recover", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    (key,) = data.pop("keys")
    assert data == {"path": str(path), "rebuilt": True, "kept": None, "calls": 0}
    assert key["from"] == ["mark"]
    assert key["unit"] == "us"
    assert int(key["nonce"]) > int(key["mark"])
    assert run(path, "recover", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data == {"path": str(path), "rebuilt": False}


def test_closed_key_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key of which nothing tells the last nonce is said to be closed, and why."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"bot", b"bat"))  # its row's check fails
    path_of(path).unlink()
    assert run(path, "recover") == 0
    assert "closed: its row was damaged" in capsys.readouterr().out
    assert run(path, "next", fingerprint(KEY)) == 2
    assert "raise-floor" in capsys.readouterr().err


def test_nothing_to_recover_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is neither a database nor marks, one line says so and the exit code is 2."""
    tmp_path.chmod(0o700)
    assert run(tmp_path / "nonces.db", "recover") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: nothing in ")
    assert said.count("\n") == 1
