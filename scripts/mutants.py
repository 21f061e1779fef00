#!/usr/bin/env python3
"""Break the package on purpose, one fault at a time, and see whether the tests notice.

    scripts/mutants.py                        the whole list
    scripts/mutants.py --only no-fsync two-in-flight
    scripts/mutants.py --jobs 4 --all-tests   by the whole suite at once, not first by the tests that should notice
    scripts/mutants.py --listed               by these alone

The list is scripts/_mutants.toml. Each fault is put into a copy of the repository, where its own tests are run first
and, if none of them fails, all of them. A test that fails without the fault too has noticed nothing. Exits with 1 if a
fault survives, with 2 if one cannot be applied or its tests cannot be run.

Every change that a program can think of, in the modules of pure functions, is made by mutmut, which is not installed by
default. pyproject.toml says what it changes and by which tests; docs/reliability.md explains what survives:

    .venv/bin/pip install mutmut
    HYPOTHESIS_PROFILE=ci .venv/bin/mutmut run
    .venv/bin/mutmut results
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from _mutants import ROOT, Mutant, mutants

#: Seconds for one file of tests and for the suite: guards, a hundred times what they take.
_GUARD_FILE: Final = 900
_GUARD_SUITE: Final = 7200
#: Seconds after which one test counts as hanging.
_GUARD_TEST: Final = 180

#: How pytest is run: until the first failure, which it names in one line, in the same order each time.
_QUIETLY: Final = (
    *("-x", "-q", "--no-header", "--tb=no", "-rfE", f"--timeout={_GUARD_TEST}"),
    *("-p", "no:randomly", "-p", "no:cacheprovider"),
)

#: What is not copied.
_LEFT_OUT: Final = shutil.ignore_patterns(
    *(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", ".coverage*"),
    "mutants",  # mutmut's own copy
)

#: It looks for the text of each mutant, and would find every one out.
_OF_THE_LIST: Final = "tests/unit/test_mutants_list.py"

_FAILED: Final = re.compile(
    r"^(?:FAILED|ERROR) (?P<test>\S+?::.+?)(?: - (?P<why>.*))?$", re.MULTILINE
)
_HUNG: Final = "Timeout (>"


class Verdict(NamedTuple):
    """What became of a mutant."""

    word: str  # caught, SURVIVED, ERROR
    how: str
    seconds: float


class _Run(NamedTuple):
    """What a run of pytest came to."""

    test: str = ""  # that failed
    hung: bool = False  # it did so by not ending, or they all did


class CannotRunError(Exception):
    """The tests could not be run."""


@contextmanager
def _copy(mutant: Mutant | None) -> Iterator[Path]:
    """Yield a copy of the repository, with the fault in it if there is one."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        root = Path(directory).resolve() / "copy"
        shutil.copytree(ROOT, root, ignore=_LEFT_OUT)
        if mutant is not None:
            source = mutant.source(root)
            source.write_text(mutant.applied(source.read_text("utf-8")), "utf-8")
        yield root


def _pytest(root: Path, arguments: Iterable[str], guard: float) -> _Run:
    """Run tests in a copy until one fails."""
    command = [sys.executable, "-m", "pytest", *_QUIETLY, *arguments]
    environment = dict(os.environ, PYTHONPATH=str(root), COLUMNS="1000")
    environment.setdefault("HYPOTHESIS_PROFILE", "ci")
    process = subprocess.Popen(  # noqa: S603 - arguments of our own
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=guard)
    except subprocess.TimeoutExpired:
        return _Run(hung=True)
    finally:
        _end(process)
    if process.returncode == 0:
        return _Run()
    failed = _FAILED.search(output)
    if process.returncode != 1 or failed is None:
        raise CannotRunError(
            f"pytest ended with {process.returncode}: {output[-2000:]}"
        )
    return _Run(failed["test"], hung=_HUNG in (failed["why"] or ""))


def _end(process: subprocess.Popen[str]) -> None:
    """End pytest and what it left running."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Judge:
    """Says which test, if any, notices a mutant.

    Args:
        sound: a copy without a fault.
        listed: run the tests that the list names for a mutant.
        suite: run all tests if none of those has failed.
    """

    def __init__(self, sound: Path, *, listed: bool, suite: bool) -> None:
        self._sound = sound
        self._listed = listed
        self._suite = suite

    def __call__(self, mutant: Mutant) -> Verdict:
        """Judge a mutant."""
        begin = time.monotonic()
        try:
            word, how = self._judge(mutant)
        except (CannotRunError, ValueError) as error:
            word, how = "ERROR", str(error)
        return Verdict(word, how, time.monotonic() - begin)

    def _judge(self, mutant: Mutant) -> tuple[str, str]:
        with _copy(mutant) as root:
            for name in mutant.tests if self._listed else ():
                how = self._notice(root, [f"tests/{name}"], _GUARD_FILE)
                if how:
                    return "caught", how
            if self._suite:
                every = ["tests", f"--ignore={_OF_THE_LIST}"]
                how = self._notice(root, every, _GUARD_SUITE)
                if how:
                    return "caught", how
        return "SURVIVED", ""

    def _notice(self, root: Path, arguments: list[str], guard: float) -> str:
        """Return how tests notice the fault in a copy, "" if they do not."""
        passed_over: list[str] = []
        while True:
            run = _pytest(root, [*arguments, *passed_over], guard)
            if not run.test:
                return f"by hang of {arguments[0]}" if run.hung else ""
            if not _pytest(self._sound, [run.test], _GUARD_FILE).test:
                return f"by {'hang of ' if run.hung else ''}{run.test}"
            print(f"  {run.test} fails without a fault too", flush=True)
            passed_over.append(f"--deselect={run.test}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="ID", default=[])
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (1)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all-tests", action="store_true", help="the suite at once")
    which.add_argument("--listed", action="store_true", help="never the suite")
    parser.add_argument("--list", action="store_true", help="print the list, and end")
    return parser.parse_args()


def main() -> int:
    """Judge the mutants asked for."""
    options = _options()
    known = {mutant.id: mutant for mutant in mutants()}
    unknown = [name for name in options.only if name not in known]
    if unknown:
        print(f"no such mutant: {', '.join(unknown)}", file=sys.stderr)
        return 2
    chosen = [known[name] for name in options.only] or [*known.values()]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.id:34} {mutant.file:20} {mutant.breaks}")
        return 0
    begin = time.monotonic()
    words: list[str] = []
    with _copy(None) as sound, ThreadPoolExecutor(options.jobs) as pool:
        judge = Judge(sound, listed=not options.all_tests, suite=not options.listed)
        for mutant, verdict in zip(chosen, pool.map(judge, chosen), strict=True):
            words.append(verdict.word)
            line = f"{verdict.word:8}  {mutant.id:34}  {verdict.how}"
            print(f"{line}  ({verdict.seconds:.1f} s)", flush=True)
    lasted = time.monotonic() - begin
    print(
        f"{len(words)} mutants: {words.count('caught')} caught, {words.count('SURVIVED')} survived, "
        f"{words.count('ERROR')} not judged; {lasted:.0f} s"
    )
    if "ERROR" in words:
        return 2
    return 1 if "SURVIVED" in words else 0


if __name__ == "__main__":
    sys.exit(main())
