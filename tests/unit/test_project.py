"""The files around the package agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
#: What a user runs; a name with an underscore in front is only sourced by the others.
COMMANDS: Final = [
    path
    for path in sorted((ROOT / "scripts").iterdir())
    if path.is_file() and path.name[0] != "_"
]
BASH: Final = [
    *(path for path in COMMANDS if not path.suffix),
    ROOT / "scripts" / "_prepare",
    ROOT / ".ci" / "run",
]
SOURCES: Final = [
    path
    for place in ("persistent_nonce", "scripts", "tests")
    for path in (ROOT / place).rglob("*.py")
]

#: A comment that silences a check, and an entry of one of ruff's lists of ignored rules; each with its reason.
_SILENCED: Final = re.compile(
    r"#\s*(?:noqa:[A-Z0-9, ]+|type:\s*ignore\[[\w, -]*\]|pragma: no (?:cover|branch))(?P<why>.*)"
)
_IGNORED: Final = re.compile(r'^ {4}"[A-Z]+\d*",(?P<why>\s*(?:#.*)?)$', re.MULTILINE)


def _name(path: Path) -> str:
    """Return what a test's id calls `path`."""
    return path.relative_to(ROOT).as_posix()


def unexplained(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the lines of `text` in which `pattern` finds something whose reason has fewer than two words."""
    found = ((line, pattern.search(line)) for line in text.splitlines())
    return [
        line
        for line, match in found
        if match and len(re.findall(r"[a-z]{2,}", match["why"])) < 2
    ]


@pytest.mark.parametrize("path", [*COMMANDS, ROOT / ".ci" / "run"], ids=_name)
def test_scripts_can_be_run(path: Path) -> None:
    """A script is executable and names its interpreter."""
    assert os.access(path, os.X_OK)
    assert path.read_text("utf-8").startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("path", BASH, ids=_name)
def test_bash_reads_the_scripts(path: Path) -> None:
    """Bash finds no error in the syntax of a script."""
    command = ["/usr/bin/env", "bash", "-n", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ci_runs_the_tests() -> None:
    """What continuous integration runs is what the README tells people to run."""
    assert "exec scripts/test" in (ROOT / ".ci" / "run").read_text("utf-8")


@pytest.mark.parametrize("command", ["scripts/demo", "scripts/test"])
def test_the_readme_names_the_first_commands(command: str) -> None:
    """The README names the commands that work on a fresh clone."""
    assert command in (ROOT / "README.md").read_text("utf-8")


def test_the_changelog_has_the_version() -> None:
    """The version of the package is a section of the changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "version"
    ]
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_silenced_check_has_its_reason(path: Path) -> None:
    """A comment that silences a check says why on the same line."""
    assert unexplained(path.read_text("utf-8"), _SILENCED) == []


def test_an_ignored_rule_has_its_reason() -> None:
    """An entry of ruff's lists of ignored rules says why on the same line."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert _IGNORED.search(text)
    assert unexplained(text, _IGNORED) == []


@pytest.mark.parametrize(
    "silence",
    ["noqa: S101", "noqa: S101, E501", "type: ignore[arg-type]", "pragma: no cover"],
)
def test_a_silenced_check_without_reason_is_found(silence: str) -> None:
    """The check above sees a bare comment, and accepts one with a reason."""
    bare = "run()  # " + silence
    assert unexplained(f"x = 1\n{bare}\n", _SILENCED) == [bare]
    assert unexplained(f"{bare}  # a reason for it", _SILENCED) == []
    assert unexplained(f"{bare} - a reason for it", _SILENCED) == []
