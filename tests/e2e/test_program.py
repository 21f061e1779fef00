"""The command line as a program: how it is started, what it loads, and its help."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import click
import pytest

from persistent_nonce import NonceProvider, SQLiteStore, demo
from persistent_nonce.cli import commands, main
from tests.support.commands import run
from tests.support.processes import GUARD

ROOT: Final = Path(__file__).parents[2]
HELP: Final = Path(__file__).with_name("help.txt")
MODULE: Final = (sys.executable, "-m", "persistent_nonce")
SCRIPT: Final = (str(Path(sys.executable).with_name("persistent-nonce")),)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database with one key."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "key", label="取引").next()
    return path


def program(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=GUARD,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("command", [MODULE, SCRIPT])
def test_it_runs_as_a_program(database: Path, command: tuple[str, ...]) -> None:
    """`persistent-nonce` and `python -m persistent_nonce` are the same program, with its exit codes."""
    done = program(*command, "show", "--db", str(database))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == str(database)
    done = program(*command, "show", "nobody", "--db", str(database))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("show",), ("show", "--json"), ("next", "取引")])
def test_a_reader_that_went_away(database: Path, command: tuple[str, ...]) -> None:
    """Output into a closed pipe ends the command without a traceback."""
    with subprocess.Popen(
        [*MODULE, *command, "--db", str(database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(GUARD) == 1


def test_any_label_on_any_terminal(database: Path) -> None:
    """A label that the output's encoding cannot write is escaped."""
    done = program(*MODULE, "show", "--db", str(database), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert r"\u53d6\u5f15" in done.stdout


@pytest.mark.parametrize(
    ("module", "loaded"),
    [("persistent_nonce", []), ("persistent_nonce.cli", ["click"])],
)
def test_a_program_loads_none_of_this(module: str, loaded: list[str]) -> None:
    """A bot that imports the library loads neither click nor rich, and the command line no rich before it prints."""
    slow = ("click", "rich", "sqlite_utils", "krakenex", "requests")
    source = f"import sys, {module}\nprint([m for m in {slow} if m in sys.modules])"
    assert program(sys.executable, "-c", source).stdout.strip() == str(loaded)


def helps() -> str:
    """Return the help texts of the program and of every command."""
    texts = []
    for name in ("", *sorted(commands.commands)):
        with redirect_stdout(io.StringIO()) as out:
            assert main([*name.split(), "--help"]) == 0
        texts.append(f"$ {' '.join(['persistent-nonce', *name.split(), '--help'])}\n{out.getvalue()}")  # fmt: skip
    return "\n".join(texts)


def test_the_help_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help texts are those of help.txt; `COLUMNS=80 python -m tests.e2e.test_program` writes it anew."""
    monkeypatch.setenv("COLUMNS", "80")
    assert helps() == HELP.read_text("utf-8")


def test_no_help_text_is_cut() -> None:
    """The list of commands shows each with its whole first sentence."""
    assert "..." not in HELP.read_text("utf-8").partition("Commands:")[2].partition("$")[0]  # fmt: skip


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_each_command_is_documented(name: str) -> None:
    """Each command has a help text, has help for each option, and is named in the README."""
    command = commands.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
    assert f"`{name}" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(set(commands.commands) - {"demo"}))
def test_each_command_takes_a_database_and_prints_json(name: str) -> None:
    """--db and --json are options of every command but `demo`, which brings its own database."""
    parameters = commands.commands[name].params
    assert {"--db", "--json"} <= {option for each in parameters for option in each.opts}  # fmt: skip


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments the program says what it can do."""
    assert run(capsys).out == run(capsys, "--help").out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version of the package."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run(capsys, "--version").out)


def test_demo_is_handed_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`demo` runs the demonstration and ends with its exit code."""
    monkeypatch.setattr(demo, "main", lambda: 3)
    assert run(capsys, "demo").code == 3


if __name__ == "__main__":
    HELP.write_text(helps(), "utf-8")
