"""scripts/inspect_state.py: the state of a database, without an installed package."""

from __future__ import annotations

import ast
import runpy
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, InvalidNonceError, NonceProvider, SQLiteStore
from persistent_nonce.state import Changed, KeyState, fingerprint
from persistent_nonce.stores import place
from tests.support.commands import listing
from tests.support.processes import GUARD, Children

SCRIPT: Final = Path(__file__).parents[2] / "scripts" / "inspect_state.py"

#: A program that is in a call, with the store open, until it is told.
CALLER: Final = """
import sys
from persistent_nonce import CallGate, SQLiteStore

with CallGate(SQLiteStore(sys.argv[1]), "key").call("Withdraw") as call:
    print(call.nonce, flush=True)
    sys.stdin.readline()
"""


def inspect(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Run the script with nothing but the standard library; return its exit code and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=GUARD,
        env=environment,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def shown(*arguments: object, **environment: str) -> list[str]:
    """Return the lines that the script prints."""
    code, out, err = inspect(*arguments, **environment)
    assert (code, err) == (0, "")
    return out.splitlines()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a closed database with a key of one call."""
    path = tmp_path / "nonces.db"
    with (
        SQLiteStore(path) as store,
        CallGate(store, "key", label="main").call("Balance"),
    ):
        pass
    return path


def read(path: Path, key: str = "key") -> KeyState:
    """Return what is stored of a key."""
    with SQLiteStore(path) as store:
        return store.read(fingerprint(key))


def test_it_shows_every_key(database: Path) -> None:
    """The script shows the path, and of each key the nonce, the unit and that nothing is in flight."""
    with SQLiteStore(database) as store:
        second = NonceProvider(store, "other", unit="ns").next()
    lines = shown(database)
    assert lines[0] == str(database)
    assert f"key {fingerprint('key')}  main" in lines
    assert f"  nonce      {read(database).nonce}" in lines
    assert f"key {fingerprint('other')}" in lines
    assert f"  nonce      {second}" in lines
    assert lines.count("  row        whole") == 2
    assert lines.count("  in flight  nothing") == 2


def test_it_leaves_no_file(database: Path) -> None:
    """The directory of a closed database is as it was afterwards."""
    before = listing(database.parent)
    shown(database)
    assert listing(database.parent) == before


def test_it_reads_beside_a_bot(database: Path) -> None:
    """While a bot is in a call, the script shows that call from the -wal, and leaves no file."""
    with Children() as children:
        child = children.script(CALLER, database)
        nonce = child.line()
        before = listing(database.parent)
        lines = shown(database)
        assert listing(database.parent) == before
        (call,) = [line for line in lines if line.startswith("  in flight  ")]
        assert call.startswith(f"  in flight  Withdraw of process {child.pid} since 20")
        assert call.endswith(f", nonce {nonce}")
        child.tell()
        assert child.end() == 0


def test_it_shows_calls(database: Path) -> None:
    """--calls N shows the newest N calls."""
    with (
        SQLiteStore(database) as store,
        CallGate(store, "key").call("AddOrder") as call,
    ):
        call.settle("unknown")
    lines = shown(database, "--calls", 1)
    assert "  AddOrder  " in lines[-1]
    assert lines[-1].endswith("  unknown")
    assert not any("  Balance  " in line for line in lines)
    assert any("  Balance  " in line for line in shown(database, "--calls", 9))


def test_it_shows_back_off_and_closed_keys(database: Path) -> None:
    """A refused nonce, its back-off and a closed key with its diagnosis are shown."""
    with SQLiteStore(database) as store:
        with pytest.raises(InvalidNonceError), CallGate(store, "key").call("Balance"):
            raise InvalidNonceError
        lines = shown(database)
        assert "  refusals   1 in a row" in lines
        assert any("s left: refused nonce " in line for line in lines)

        def close(state: KeyState, now: object) -> Changed:
            return Changed(state._replace(closed=True, diagnosis="somebody else"))

        store.update(fingerprint("key"), close)
    assert "  CLOSED     somebody else" in shown(database)


def test_a_damaged_row_is_told(database: Path) -> None:
    """A row of which a bit has changed is called damaged."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE keys SET nonce = nonce + 1")
    connection.close()
    assert "  row        DAMAGED" in shown(database)


def test_names_do_not_reach_the_terminal(database: Path) -> None:
    """Control signs in a stored name are shown as escapes."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE keys SET label = ?", ("\x1b[31m\n",))
    connection.close()
    assert rf"key {fingerprint('key')}  \x1b[31m\n" in shown(database)


def test_the_default_database(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument it is the library's own: that of PERSISTENT_NONCE_DB, else the one in the user's home."""
    assert shown(PERSISTENT_NONCE_DB=str(database))[0] == str(database)
    monkeypatch.delenv("PERSISTENT_NONCE_DB", raising=False)
    default = runpy.run_path(str(SCRIPT))["default_database"]
    assert default() == str(place.default_path())


def test_what_is_no_database(tmp_path: Path) -> None:
    """What cannot be read is one line on stderr and a failure: no file, a text, somebody else's database."""
    text = tmp_path / "text"
    text.write_text("hello\n" * 1000)
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    before = listing(tmp_path)
    for path in (tmp_path / "nothing", text, other, tmp_path):
        code, out, err = inspect(path)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    assert listing(tmp_path) == before


def test_a_copy_without_its_shm(database: Path, tmp_path: Path) -> None:
    """A copy with a -wal but no -shm is refused: its newest state could not be read without making a file."""
    copy = tmp_path / "copy"
    copy.mkdir()
    with SQLiteStore(database) as store:
        NonceProvider(store, "key").next()
        for suffix in ("", "-wal"):
            shutil.copy(f"{database}{suffix}", copy)
    before = listing(copy)
    code, _, err = inspect(copy / database.name)
    assert code == 1
    assert "without its -shm" in err
    assert listing(copy) == before


def test_it_needs_only_the_standard_library() -> None:
    """The script imports nothing but the standard library, and reads as Python 3.8."""
    tree = ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 8))
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names
