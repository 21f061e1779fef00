"""The demo: it proves what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import demo
from persistent_nonce.demo import Column, holds
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.testing import Arrival
from persistent_nonce.testing.visits import Ruling
from tests.support.trading import GUARD, until

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(),
    reason="the bots are found in /proc, which this system does not have",
)

#: A bot's arguments, which hold no key and no secret.
BOT: Final = [sys.executable, "-m", "persistent_nonce.bots"]


def _heed_ctrl_c() -> None:
    """Let Ctrl-C end the demo, though a shell that runs the tests in the background has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def running(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the demo with its temporary files in `directory`, and end it and its bots whatever happens."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "persistent_nonce", "demo"],
        env=os.environ | {"TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # as a terminal has it: Ctrl-C goes to all in it
        preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - the test has no other thread
    )
    try:
        yield demo
    finally:
        demo.kill()
        demo.communicate()
        for pid in bots(directory):
            os.kill(pid, signal.SIGKILL)


def bots(directory: Path) -> dict[int, list[str]]:
    """Return pid and arguments of the live bots whose temporary files are in `directory`."""
    found = {}
    mark = f"TMPDIR={directory}".encode()
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            environment = (proc / "environ").read_bytes().split(b"\0")
            arguments = (proc / "cmdline").read_bytes().decode().split("\0")[:-1]
        except OSError:
            continue  # it has just ended, or is not ours
        if mark in environment and "persistent_nonce.bots" in arguments:
            found[int(proc.name)] = arguments
    return found


@needs_proc
def test_the_demo_proves_what_it_says(tmp_path: Path) -> None:
    """It exits with 0, shows both columns, the call in doubt and the state, and leaves no file and no process."""
    with running(tmp_path) as process:
        until(lambda: len(bots(tmp_path)) >= 4, "four bots")
        seen = list(bots(tmp_path).values())
        out, _ = process.communicate(timeout=2 * GUARD)
    assert process.returncode == 0, out
    rows = {
        line[:30].rstrip(): [int(cell) for cell in line[30:].split()]
        for line in out.splitlines()
        if line[:30].rstrip() and line[30:].replace(" ", "").isdigit()
    }
    assert rows["asked for"] == [200, 200]
    assert rows["done"][1] == 200 > rows["done"][0]
    assert rows["refused: invalid nonce"][0] > 0
    assert [right for name, (_, right) in rows.items() if "refused" in name] == [0] * 3
    assert rows["in flight beside another"][1] == 0
    assert out.count("interrupted (in doubt)") == 1
    assert "AddOrder" in out
    assert "lead" in out
    assert out.endswith("The proof holds.\n")
    assert all(arguments == BOT for arguments in seen)
    assert list(tmp_path.iterdir()) == []
    assert bots(tmp_path) == {}


@needs_proc
def test_ctrl_c_ends_the_demo_and_all_it_started(tmp_path: Path) -> None:
    """An interrupt while the bots trade ends them too, and removes the files."""
    with running(tmp_path) as process:
        until(lambda: len(bots(tmp_path)) >= 4, "four bots")
        until(lambda: [*tmp_path.rglob("bot-3.log")], "the last one's log")
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=GUARD)
        assert process.returncode == 130, out
        assert "Traceback" not in out
        until(lambda: not bots(tmp_path), "the end of the bots")
        assert list(tmp_path.iterdir()) == []


def test_without_krakenex_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The demo needs krakenex, and names the extra that brings it."""
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"persistent_nonce\[krakenex\]"):
        demo.main()


def arrivals(*verdicts: Ruling, overlapped: tuple[int, ...] = ()) -> list[Arrival]:
    """Return requests that met with these verdicts."""
    return [
        Arrival(
            number=number,
            at=0,
            key="k",
            method="Balance",
            nonce=number,
            verdict=verdict,
            overlapped=overlapped,
            fault=None,
            executed=True,
            completed=True,
        )
        for number, verdict in enumerate(verdicts)
    ]


GOOD: Final = Column(arrivals("accepted"), answered=200, ended=True)
PLAIN: Final = Column(arrivals("accepted", "invalid_nonce"), answered=1, ended=True)


@pytest.mark.parametrize(
    ("plain", "ours", "proven"),
    [
        (PLAIN, GOOD, True),
        (GOOD, GOOD, False),
        (PLAIN, PLAIN, False),
        (PLAIN, GOOD._replace(arrivals=arrivals("invalid_nonce")), False),
        (PLAIN, GOOD._replace(arrivals=arrivals("rate_limited")), False),
        (PLAIN, GOOD._replace(arrivals=arrivals("locked_out")), False),
        (PLAIN, GOOD._replace(arrivals=arrivals("overlap", overlapped=(0,))), False),
        (PLAIN, GOOD._replace(answered=199), False),
        (PLAIN, GOOD._replace(ended=False), False),
    ],
)
def test_the_proof_holds_only_if_all_of_it_does(
    plain: Column, ours: Column, proven: bool
) -> None:
    """Plain bots must have been refused, and of the library's every call done and none refused."""
    assert holds(plain, ours) is proven
