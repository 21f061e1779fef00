"""The command line: each command, its options, its errors, and what it leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, NonceProvider, Rate, SQLiteStore
from persistent_nonce.state import fingerprint
from persistent_nonce.stores import place, reader
from tests.support.commands import Runner, listing, run
from tests.support.processes import GUARD, Children

MODULE: Final = (sys.executable, "-m", "persistent_nonce")

#: What reads, takes no lock, and leaves no file behind.
READING: Final = ("show", "show --json", "calls", "calls --in-doubt", "doctor --json")

#: A program that has the store open and its lock, until it is told.
HOLDER: Final = """
import os, sys, fcntl
from persistent_nonce import NonceProvider, SQLiteStore

store = SQLiteStore(sys.argv[1])
NonceProvider(store, "held").next()
lock = os.open(sys.argv[1] + ".lock", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
os.close(lock)
"""


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


# --- what reads


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


# --- nothing is left behind, nothing is waited for


@pytest.mark.parametrize("command", READING)
def test_reading_a_closed_database_leaves_no_file(ran: Runner, command: str) -> None:
    """A reading command leaves the directory of a closed database as it was (no -wal, no -shm)."""
    before = listing(ran.database.parent)
    assert ran(*command.split()).code == 0
    assert listing(ran.database.parent) == before


def test_reading_beside_a_holder(ran: Runner) -> None:
    """While another process has the lock and is stopped, reading commands answer, and leave no file.

    They see what it has committed; `doctor` names it.
    """
    with Children() as children:
        child = children.script(HOLDER, ran.database)
        child.wait_for("held")
        child.kill(signal.SIGSTOP)
        try:
            before = listing(ran.database.parent)
            assert f"{ran.database.name}-wal" in dict(before)
            for command in READING:
                code, out, err = ran(*command.split())
                assert (code, err) == (1 if "doctor" in command else 0, "")
                assert fingerprint("held") in out or "calls" in command
            assert f"by process {child.pid} (stopped)" in ran("doctor").out
            assert listing(ran.database.parent) == before
        finally:
            child.kill(signal.SIGCONT)
        child.tell()
        assert child.end() == 0
    assert ran("doctor").code == 0


def test_reading_takes_no_write_lock(
    ran: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No reading command asks for the exclusive lock, not even for a moment, or opens a store to write."""
    modes = []
    flock = fcntl.flock

    def watch(descriptor: int, mode: int) -> None:
        modes.append(mode)
        flock(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", watch)
    monkeypatch.setattr(SQLiteStore, "__init__", None)
    for command in READING:
        assert ran(*command.split()).code == 0
    assert set(modes) == {fcntl.LOCK_SH | fcntl.LOCK_NB}


def test_reading_a_copy_without_its_shm(
    ran: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy with a -wal but no -shm is not completed behind its owner's back; that is an error."""
    monkeypatch.setattr(reader, "_PATIENCE", 0.1)
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    with SQLiteStore(ran.database) as store:
        NonceProvider(store, "key").next()
        for suffix in ("", "-wal"):
            shutil.copy(f"{ran.database}{suffix}", copy)
    before = listing(copy)
    ran.database = copy / ran.database.name
    assert "has a -wal but no -shm" in ran.fails("show")
    assert listing(copy) == before


def test_a_missing_database_is_not_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where there is no database, commands that need one say so and make none."""
    for command in ("show", "calls", "watch", "next main", "reopen main"):
        code, out, err = run(capsys, *command.split(), "--db", tmp_path / "nonces.db")
        assert (code, out) == (2, "")
        assert err.startswith("error: there is no database ")
        assert "--db" in err
    assert list(tmp_path.iterdir()) == []


def test_the_default_place_is_not_made_to_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Reading the default place, where nothing is yet, makes no directory."""
    path = tmp_path / "state" / "persistent_nonce" / "nonces.db"
    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    monkeypatch.setattr(place, "home_path", lambda user: path)
    assert run(capsys, "show").code == 2
    assert run(capsys, "doctor").code == 1
    assert list(tmp_path.iterdir()) == []


# --- what changes


def test_next(ran: Runner) -> None:
    """`next` prints a nonce above the last one, as the store has it then; with --json as a string."""
    last = ran.state().nonce
    code, out, err = ran("next", "main")
    assert (code, err) == (0, "")
    assert int(out) == ran.state().nonce > last
    data = ran("next", "main", "--json").data
    assert data == {"key": fingerprint("key"), "nonce": str(ran.state().nonce)}
    assert int(data["nonce"]) > int(out)


def test_next_of_a_closed_key(ran: Runner) -> None:
    """A closed key gives no nonce to the command line either."""
    ran.close_key()
    assert "is closed: so" in ran.fails("next", "main")


def test_raise_floor(ran: Runner) -> None:
    """`raise-floor` moves the mark up and opens the key; a lower value changes nothing (I10)."""
    ran.close_key()
    floor = ran.state().nonce + 10_000
    code, out, _ = ran("raise-floor", "main", floor)
    assert code == 0
    assert f"  nonce      {floor}" in out.splitlines()
    assert (ran.state().nonce, ran.state().closed) == (floor, False)
    assert ran("raise-floor", "main", 5).code == 0
    assert ran.state().nonce == floor
    assert int(ran("next", "main").out) == floor + 1


def test_raise_floor_before_the_first_use(ran: Runner) -> None:
    """The floor of a key that was never used is set by its whole fingerprint, and holds for its first nonce."""
    floor = ran.state().nonce + 60_000
    assert ran("raise-floor", fingerprint("new").upper(), floor).code == 0
    with SQLiteStore(ran.database) as store:
        assert NonceProvider(store, "new").next() == floor + 1


def test_raise_floor_makes_a_database(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The floor of a new key may be set before any program has run."""
    path = tmp_path / "new.db"
    assert run(capsys, "raise-floor", fingerprint("new"), 7, "--db", path).code == 0
    with SQLiteStore(path) as store:
        assert NonceProvider(store, "new").last == 7


def test_set_unit(ran: Runner) -> None:
    """`set-unit` goes on in a finer unit; a coarser one is an error."""
    last = ran.state().nonce
    assert ran("set-unit", "main", "us").code == 0
    assert (ran.state().unit, ran.state().nonce) == ("us", last * 1000)
    assert "is coarser" in ran.fails("set-unit", "main", "ms")
    assert ran.state().unit == "us"


def test_set_unit_before_the_first_use(ran: Runner) -> None:
    """Any unit can be set for a key that was never used."""
    assert ran("set-unit", fingerprint("new"), "s").code == 0
    assert ran.state("new").unit == "s"


@pytest.mark.parametrize(
    ("tier", "burst"), [("starter", 14), ("intermediate", 19), ("pro", 19)]
)
def test_set_tier(ran: Runner, tier: str, burst: int) -> None:
    """`set-tier` stores the counter of the tier, for all programs of the key."""
    code, out, _ = ran("set-tier", "main", tier)
    assert code == 0
    assert f" of {burst} ({tier}, " in out
    assert (ran.state().tier, ran.state().burst) == (tier, burst)


def test_set_tier_none(ran: Runner) -> None:
    """The tier `none` lets calls go without a counter."""
    assert ran("set-tier", "main", "none").code == 0
    assert "  counter    none; calls 0 s apart" in ran("show").out.splitlines()


def test_set_tier_with_headroom(ran: Runner) -> None:
    """`--headroom` leaves a part of the tier's counter to others, and room for any call; it is that of a tier."""
    assert ran("set-tier", "main", "pro", "--headroom", 5).code == 0
    (key,) = ran("show", "main", "--json").data["keys"]
    assert (key["counter"]["burst"], key["counter"]["tier"]) == (15, "pro")
    for wrong in (
        ("pro", "--headroom", 19),
        ("--headroom", 5),
        ("none", "--headroom", 5),
    ):
        code, _, error = ran("set-tier", "main", *wrong)
        assert code == 2
        assert len(error.splitlines()) == 1


def test_set_tier_options(ran: Runner) -> None:
    """The options of `set-tier` change one setting each, and leave the tier."""
    assert ran("set-tier", "main", "pro", "--min-interval", 0.5).code == 0
    assert ran("set-tier", "main", "--attempts", 5, "--max-lead", 60).code == 0
    assert ran("set-tier", "main", "--greatest", 2**53 - 1).code == 0
    state = ran.state()
    assert state.greatest == 2**53 - 1
    assert (state.tier, state.interval) == ("pro", 500_000_000)
    assert (state.attempts, state.max_lead) == (5, 60_000_000_000)
    assert ran("set-tier", "main", "--rate", 0.5, 7).code == 0
    assert ran.state().rate == Rate(0.5, 7)
    assert ran.state().interval == 500_000_000


def test_reopen(ran: Runner) -> None:
    """`reopen` opens a closed key."""
    ran.close_key()
    assert ran("reopen", "main").code == 0
    assert (ran.state().closed, ran.state().refusals) == (False, 0)


def test_changes_print_json(ran: Runner) -> None:
    """What changes a key prints it as `show` does, also as JSON."""
    for command in (
        "raise-floor main 1", "set-unit main us", "set-tier main pro", "reopen main"
    ):  # fmt: skip
        data = ran(*command.split(), "--json").data
        assert data["path"] == str(ran.database)
        assert data["keys"][0]["key"] == fingerprint("key")


@pytest.mark.parametrize("named", ["option", "variable"])
def test_a_shared_store_stays_shared(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
) -> None:
    """A command that makes a database in a directory shared by a group makes it for the group."""
    tmp_path.chmod(0o2770)
    path = tmp_path / "nonces.db"
    database = ("--db", path) if named == "option" else ()
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(path))
    assert run(capsys, "raise-floor", fingerprint("new"), 7, *database).code == 0
    files = [file for file in tmp_path.iterdir() if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o660}


# --- which key, which database


@pytest.mark.parametrize(
    "given", ["main", fingerprint("key"), fingerprint("key")[:5], fingerprint("key")[:5].upper()]
)  # fmt: skip
def test_a_key_is_named_by_fingerprint_beginning_or_label(
    ran: Runner, given: str
) -> None:
    """A KEY is a fingerprint, a unique beginning of one, or a label."""
    (key,) = ran("show", given, "--json").data["keys"]
    assert key["key"] == fingerprint("key")


@pytest.mark.parametrize("given", ["mai", "MAIN", "zz", "", " "])
def test_no_such_key(ran: Runner, given: str) -> None:
    """Where no key is meant the error lists those that there are."""
    assert f"the keys are {fingerprint('key')} 'main'" in ran.fails("show", given)


def test_an_ambiguous_key(ran: Runner) -> None:
    """Where more than one key is meant the error lists them, and nothing is changed."""
    names = [n for n in map(str, range(60)) if fingerprint(n)[0] == fingerprint("0")[0]]
    with SQLiteStore(ran.database) as store:
        for name in names[:2]:
            NonceProvider(store, name, label="twin").next()
    for given in (fingerprint("0")[0], "twin"):
        error = ran.fails("next", given)
        assert "more than one key is meant" in error
        assert all(fingerprint(name) in error for name in names[:2])
    one = fingerprint(names[0])
    assert ran("next", one, "--json").data["key"] == one


@pytest.mark.parametrize("command", ["next", "reopen", "show", "calls"])
def test_a_new_key_cannot_be_read_or_used(ran: Runner, command: str) -> None:
    """A fingerprint that the store does not know is an error where a key must exist."""
    assert "no such key" in ran.fails(command, fingerprint("unknown"))
    assert len(ran("show", "--json").data["keys"]) == 1


def test_a_database_without_keys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In an empty database `show` and `calls` show nothing, and a key is an error."""
    path = tmp_path / "nonces.db"
    SQLiteStore(path).close()
    assert run(capsys, "show", "--db", path).out.splitlines()[-1] == "no key has been used yet"  # fmt: skip
    assert run(capsys, "calls", "--db", path, "--json").data == []
    assert "it has no keys yet" in run(capsys, "next", "a", "--db", path).err


def test_a_damaged_key_does_not_keep_from_the_others(ran: Runner) -> None:
    """With one row damaged, the other keys can be shown and changed."""
    with SQLiteStore(ran.database) as store:
        NonceProvider(store, "other", label="other").next()
    with sqlite3.connect(ran.database) as connection:
        connection.execute("UPDATE keys SET nonce = nonce + 1 WHERE label = 'main'")
    connection.close()
    assert ran("next", "other").code == 0
    assert "damaged" in ran.fails("show")
    assert "damaged" in ran.fails("next", fingerprint("key"))


def test_db_before_or_behind_the_command(
    capsys: pytest.CaptureFixture[str], database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--db may stand on either side of the command; the variable is used where it is not given."""
    expected = run(capsys, "show", "--db", database, "--json").data["path"]
    assert run(capsys, "--db", database, "show", "--json").data["path"] == expected
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(database))
    assert run(capsys, "show", "--json").data["path"] == expected
    assert run(capsys, "next", "main").code == 0
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(database.parent / "other.db"))
    assert run(capsys, "show", "--db", database, "--json").data["path"] == expected


def test_a_link_is_followed_to_be_read(ran: Runner) -> None:
    """Through a link the newest state is read, not the one without the -wal beside the link."""
    link = ran.database.with_name("link.db")
    link.symlink_to(ran.database)
    with SQLiteStore(ran.database) as store:
        nonce = NonceProvider(store, "key").next()
        ran.database = link
        assert ran("show", "--json").data["keys"][0]["nonce"] == str(nonce)
