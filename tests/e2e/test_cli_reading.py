"""The commands that look: what `show`, `calls`, `doctor` and `watch` print of a database with two calls."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.cli import main
from persistent_nonce.state import fingerprint
from tests.support import commands
from tests.support.commands import Runner
from tests.support.processes import GUARD, Children

MODULE: Final = (sys.executable, "-m", "persistent_nonce")

database, ran = commands.database, commands.ran


def test_show(ran: Runner) -> None:
    """`show` prints the path, then the key with label, nonce, counter."""
    code, out, err = ran("show")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == str(ran.database)
    assert lines[2] == f"key {fingerprint('key')}  main"
    assert f"  nonce      {ran.state().nonce}" in lines


def test_show_json(ran: Runner) -> None:
    """`show --json` holds the same, nonces as strings."""
    data = ran("show", "--json").data
    assert data["path"] == str(ran.database)
    (key,) = data["keys"]
    assert (key["label"], key["nonce"]) == ("main", str(ran.state().nonce))


def test_show_one_key(ran: Runner) -> None:
    """`show KEY` prints that key only."""
    with SQLiteStore(ran.database) as store:
        NonceProvider(store, "other", label="other").next()
    assert [key["label"] for key in ran("show", "other", "--json").data["keys"]] == ["other"]  # fmt: skip
    assert len(ran("show", "--json").data["keys"]) == 2


def test_calls(ran: Runner) -> None:
    """`calls` lists the newest call first, with outcome, wait and duration."""
    code, out, _ = ran("calls")
    header, newest, oldest = out.splitlines()
    assert code == 0
    assert header.split() == [
        "started",
        "key",
        "method",
        "cost",
        "nonce",
        "waited",
        "took",
        "outcome",
        "reference",
        "pid",
    ]
    assert "AddOrder" in newest
    assert "unknown (in doubt)" in newest
    assert "Balance" in oldest


def test_calls_json(ran: Runner) -> None:
    """`calls --json` holds the same; `--limit` cuts, `--in-doubt` and a KEY choose."""
    newest, oldest = ran("calls", "--json").data
    assert (newest["method"], newest["outcome"], newest["in_doubt"]) == ("AddOrder", "unknown", True)  # fmt: skip
    assert (oldest["method"], oldest["outcome"], oldest["in_doubt"]) == ("Balance", "ok", False)  # fmt: skip
    assert newest["nonce"] == str(ran.state().nonce)
    assert ran("calls", "--json", "--limit", 1).data == [newest]
    assert ran("calls", "--json", "--in-doubt").data == [newest]
    assert ran("calls", "main", "--json").data == [newest, oldest]
    with SQLiteStore(ran.database) as store:
        NonceProvider(store, "other", label="other").next()
    assert ran("calls", "other", "--json").data == []


def test_a_damaged_record_is_shown(ran: Runner) -> None:
    """A record of a call has no check; `calls` shows what it holds, and no process where none can be read."""
    with closing(sqlite3.connect(ran.database)) as connection:
        connection.execute("UPDATE calls SET session = 'x' || session")
        connection.commit()
    code, out, err = ran("calls")
    assert (code, err, len(out.splitlines())) == (0, "", 3)
    assert [call["pid"] for call in ran("calls", "--json").data] == [0, 0]


def test_old_calls_in_doubt_are_found(ran: Runner) -> None:
    """A call in doubt is listed however many calls came after it."""
    with SQLiteStore(ran.database) as store:
        gate = CallGate(store, "key", min_interval=0)
        for _ in range(60):
            with gate.call("Balance", cost=0):
                pass
    assert len(ran("calls", "--json").data) == 50
    (call,) = ran("calls", "--in-doubt", "--json").data
    assert call["method"] == "AddOrder"


def test_the_call_in_flight_is_listed(ran: Runner) -> None:
    """`show` and `calls` tell of the call in flight while it lasts; its death leaves it in doubt."""
    source = (
        "import sys; from persistent_nonce import CallGate, SQLiteStore\n"
        "gate = CallGate(SQLiteStore(sys.argv[1]), 'key')\n"
        "with gate.call('Withdraw', cost=0):\n"
        "    print('in', flush=True); sys.stdin.readline()\n"
    )
    with Children() as children:
        child = children.script(source, ran.database)
        child.wait_for("in")
        (key,) = ran("show", "--json").data["keys"]
        assert (key["in_flight"]["method"], key["in_flight"]["pid"]) == ("Withdraw", child.pid)  # fmt: skip
        assert key["in_flight"]["process"] in ("running", "sleeping")
        assert ran("calls", "--json").data[0]["outcome"] == "in_flight"
        assert ran("doctor").code == 0
        child.kill()
        assert ran("calls", "--in-doubt", "--json").data[0]["outcome"] == "interrupted"
        assert "(gone)" in ran("show").out
        found = ran("doctor")
        assert found.code == 1
        assert "was in flight when its process ended" in found.out


def test_doctor(ran: Runner) -> None:
    """`doctor` exits with 0 if all is well, with 1 on a finding."""
    assert ran("doctor").code == 0
    assert ran("doctor").out.splitlines()[-1] == "nothing is wrong"
    ran.close_key()
    code, out, _ = ran("doctor")
    assert code == 1
    assert "closed: so" in out
    assert out.splitlines()[-1] == "1 to be put right"
    data = ran("doctor", "--json").data
    assert [each["about"] for each in data if each["wrong"]] == [f"key {fingerprint('key')} 'main'"]  # fmt: skip


# --- watching


def test_watch_prints_json_until_ctrl_c(ran: Runner) -> None:
    """`watch --json` writes a line for each look, follows what happens, and ends well on Ctrl-C."""
    with Children() as children:
        source = "import sys; from persistent_nonce.cli import main; sys.exit(main())"
        child = children.script(source, "watch", "--json", "--interval", 0.05, "--db", ran.database)  # fmt: skip
        first = json.loads(child.line())
        assert [call["method"] for call in first["calls"]] == ["AddOrder", "Balance"]
        nonce = ran("next", "main").out.strip()
        deadline = time.monotonic() + GUARD
        while json.loads(child.line())["keys"][0]["nonce"] != nonce:
            assert time.monotonic() < deadline
        child.kill(signal.SIGINT)
        assert child.end() == 0


def test_watch_into_a_pipe(ran: Runner) -> None:
    """Without a terminal each look is written below the last one, not kept until the end."""
    with Children() as children:
        source = "import sys; from persistent_nonce.cli import main; sys.exit(main())"
        child = children.script(source, "watch", "--interval", 0.05, "--db", ran.database)  # fmt: skip
        lines = [child.line() for _ in range(40)]
        assert sum(line.startswith(f"key {fingerprint('key')}") for line in lines) > 1
        child.kill(signal.SIGINT)
        assert child.end() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_output_that_is_full(ran: Runner, options: list[str]) -> None:
    """Where nothing can be written, that is one line on stderr and exit code 2, not a finding's."""
    command = [*MODULE, "show", *options, "--db", str(ran.database)]
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device (")
    assert len(done.stderr.splitlines()) == 1


def test_no_output_at_all(ran: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stdout that is closed, as a service's may be, is none for Python: the command does what it does."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["show", "--db", str(ran.database)]) == 0


def test_watch_on_a_terminal(ran: Runner) -> None:
    """`watch` shows path and key on a terminal, and ends well on Ctrl-C."""
    master, slave = pty.openpty()
    command = [*MODULE, "watch", "main", "--interval", "0.05", "--db", str(ran.database)]  # fmt: skip
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
    try:
        os.close(slave)
        seen = b""
        while b"back-off" not in seen:
            seen += os.read(master, 4096)
        assert fingerprint("key").encode() in seen
        process.send_signal(signal.SIGINT)
        while _more(master):
            pass
        assert process.wait(GUARD) == 0
    finally:
        process.kill()
        process.wait(GUARD)
        os.close(master)


def _more(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how the end of a terminal reads on Linux
        return b""
