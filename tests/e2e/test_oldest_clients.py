"""The drop-ins with the oldest versions of the packages that the extras name; all other tests run with the newest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

#: Seconds for an installation, and for the tests: guards.
GUARD: Final = 600

#: What of an extra is a client: its package, and the tests of its drop-in.
TESTS: Final = {
    "ccxt": ["unit/test_ccxt_adapter.py", "e2e/test_ccxt.py"],
    "krakenex": [
        "unit/test_krakenex_adapter_calls.py",
        "unit/test_krakenex_adapter_keys.py",
        "unit/test_krakenex_adapter_limits.py",
        "unit/test_krakenex_adapter_not_sent.py",
        "unit/test_krakenex_adapter_questions.py",
        "unit/test_krakenex_adapter_refusals.py",
        "unit/test_krakenex_adapter_replies.py",
        "e2e/test_krakenex_faults.py",
    ],
    "python-kraken-sdk": ["unit/test_kraken_sdk_adapter.py", "e2e/test_kraken_sdk.py"],
}


def oldest() -> dict[str, str]:
    """Return the clients' packages with the oldest version that an extra allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        for extra in project["optional-dependencies"].values()
        for requirement in extra
    ]
    return {found[1]: found[2] for found in wanted if found is not None}


def test_each_extra_states_its_oldest_version() -> None:
    """Each client has an extra that says from which version on it is supported, and tests to be run with that."""
    assert oldest().keys() == TESTS.keys()


@pytest.mark.timeout(2 * GUARD)
def test_the_oldest_versions(tmp_path: Path) -> None:
    """With the oldest versions that the extras state, the drop-ins' own tests hold."""
    packages = [f"{name}=={version}" for name, version in oldest().items()]
    install = [
        "pip",
        "install",
        "--quiet",
        "--target",
        str(tmp_path / "old"),
        *packages,
    ]
    done = _run(install, {})
    if "Could not find a version" in done.stderr or "ConnectionError" in done.stderr:
        pytest.skip(f"NOT RUN: no index has {packages}")
    assert done.returncode == 0, done.stderr
    files = [str(ROOT / "tests" / file) for files in TESTS.values() for file in files]
    scratch = ["--basetemp", str(tmp_path / "scratch"), "-p", "no:cacheprovider"]
    path = {"PYTHONPATH": str(tmp_path / "old")}
    used = _run(["-c", "import ccxt; print(ccxt.__version__)"], path)
    assert used.stdout.startswith(oldest()["ccxt"]), used.stdout + used.stderr
    done = _run(["pytest", "-q", *scratch, *files], path)
    assert done.returncode == 0, done.stdout + done.stderr


def _run(
    arguments: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    as_module = [] if arguments[0] == "-c" else ["-m"]
    return subprocess.run(
        [sys.executable, *as_module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
