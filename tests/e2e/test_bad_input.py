"""What cannot be used is refused: by an error of our tree with a hint, on the command line by one line and code 2."""

from __future__ import annotations

import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce import (
    CallGate,
    NonceProvider,
    Rate,
    Recovery,
    SQLiteStore,
    kraken,
    open_store,
)
from persistent_nonce.arguments import check_label, seconds_argument
from persistent_nonce.errors import (
    ConfigurationError,
    NonceError,
    NonceRangeError,
    StoreCorruptError,
    StorePermissionError,
    StoreUnavailableError,
    StoreVersionError,
    UnitMismatchError,
)
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.memory import MemoryStore
from tests.support.commands import listing, run

#: Names that are refused as a label, a method or a tier.
NAMES: Final = (
    "", " ", "a/", "/a", "a\nb", "a\x00b", "a\x1b[31mb", "a\u202eb", "x" * 65, " a", "\ud800",
    "a/" * 99 + "a", 7, None
)  # fmt: skip

#: Lengths of time that are refused.
TIMES: Final = (-1, -1e-9, math.nan, math.inf, -math.inf, 1e12, True, "5")


def good(error: NonceError) -> None:
    """Check that an error is one line with a hint."""
    assert error.hint
    assert len(str(error).splitlines()) == 1
    assert str(error).isprintable()
    assert len(str(error)) < 600


def refused(kind: type[NonceError], do: Callable[[], object]) -> str:
    """Check that `do` is refused with a good error, and return its text."""
    with pytest.raises(kind) as caught:
        do()
    good(caught.value)
    return str(caught.value)


def enter(gate: CallGate, *names: Any, **options: Any) -> None:
    """Make a call."""
    with gate.call(*names, **options):
        pass


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """Return a store that does not matter."""
    store = MemoryStore()
    yield store
    assert store.keys() == []  # nothing that was refused has left a trace
    store.close()


# --- arguments


@pytest.mark.parametrize("key", ["", " ", "\n", None, 7, b"key"])
def test_an_unusable_key(store: MemoryStore, key: Any) -> None:
    """An API key that is empty or no string is refused."""
    for make in (NonceProvider, CallGate):
        refused(ConfigurationError, partial(make, store, key))


@pytest.mark.parametrize("unit", ["", "MS", "minutes", "1ms", 1000, "x" * 1000])
def test_an_unknown_unit(store: MemoryStore, unit: Any) -> None:
    """A unit that does not exist is refused, with those that do."""
    text = refused(ConfigurationError, lambda: NonceProvider(store, "k", unit=unit))
    assert "one of s, ms, us, 10ns, ns" in text
    refused(ConfigurationError, lambda: CallGate(store, "k", unit=unit))


@pytest.mark.parametrize("name", ["a/b", "../x", *NAMES[:-1]])
def test_an_unusable_label(store: MemoryStore, name: Any) -> None:
    """A label that could leave a directory, a line or a terminal is refused."""
    refused(ConfigurationError, lambda: NonceProvider(store, "k", label=name))
    refused(ConfigurationError, lambda: CallGate(store, "k", label=name))


@pytest.mark.parametrize("name", NAMES)
def test_an_unusable_method(store: MemoryStore, name: Any) -> None:
    """So is the name of a method."""
    refused(ConfigurationError, lambda: enter(CallGate(store, "k"), name))


@given(st.text())
def test_a_label_that_is_taken_is_harmless(label: str) -> None:
    """Whatever is taken as a label is one printable line without a slash; anything else is refused well."""
    try:
        taken = check_label(label)
    except ConfigurationError as error:
        good(error)
    else:
        assert taken.isprintable()
        assert "/" not in taken
        assert 0 < len(taken) <= 64


@pytest.mark.parametrize("value", TIMES)
def test_an_absurd_time(store: MemoryStore, value: Any) -> None:
    """A time that is negative, endless, longer than a year or no number is refused everywhere."""
    gate = CallGate(store, "k")
    attempts: list[Callable[[], object]] = [
        lambda: seconds_argument("timeout", value),
        lambda: CallGate(store, "k", timeout=value),
        lambda: CallGate(store, "k", hold_timeout=value),
        lambda: CallGate(store, "k", min_interval=value),
        lambda: enter(gate, "Balance", timeout=value),
        lambda: SQLiteStore("never.db", timeout=value),
        lambda: Rate(value, 1),
        lambda: Recovery(jump=value),
        lambda: Recovery(wait=value),
        lambda: Recovery(factor=value),
        lambda: Recovery(max_lead=value),
    ]
    for attempt in attempts:
        refused(ConfigurationError, attempt)


def test_no_time_at_all(store: MemoryStore) -> None:
    """A lock or a call that could last no time is refused."""
    refused(ConfigurationError, lambda: CallGate(store, "k", hold_timeout=0))
    refused(ConfigurationError, lambda: SQLiteStore("never.db", timeout=0))


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", 10**9, None])
def test_an_absurd_cost(store: MemoryStore, value: Any) -> None:
    """A cost or a burst is a whole number of a sensible size; a number of attempts too."""
    refused(ConfigurationError, lambda: enter(CallGate(store, "k"), "M", cost=value))
    refused(ConfigurationError, lambda: Rate(1.0, value))
    refused(ConfigurationError, lambda: Recovery(attempts=value))


@pytest.mark.parametrize("value", [1.0, True, "1", 10**9, -(10**9), None])
def test_an_absurd_priority(store: MemoryStore, value: Any) -> None:
    """A priority is a whole number."""
    gate = CallGate(store, "k")
    refused(ConfigurationError, lambda: enter(gate, "M", priority=value))


def test_a_cost_above_the_burst() -> None:
    """A call that could never be let go is refused at once, and leaves nothing in the queue."""
    store = MemoryStore()
    gate = CallGate(store, "k", rate=Rate(1.0, 4))
    text = refused(ConfigurationError, lambda: enter(gate, "Ledgers", cost=5))
    assert "costs 5, more than the 4" in text
    assert "set-tier" in text
    assert store.read(fingerprint("k")).queue == ()


@pytest.mark.parametrize("outcome", ["in_flight", "interrupted", "", "fine", None])
def test_an_absurd_outcome(outcome: Any) -> None:
    """A call cannot be said to end in a way that is none; it can still be said how it did."""
    with CallGate(MemoryStore(), "k").call("Balance") as call:
        refused(ConfigurationError, lambda: call.settle(outcome))
        call.settle("error")


@pytest.mark.parametrize("count", [0, -1, 10**7, 1.0, True, "3", None])
def test_an_absurd_number_of_nonces(store: MemoryStore, count: Any) -> None:
    """As many nonces can be reserved as a program may use."""
    refused(ConfigurationError, lambda: NonceProvider(store, "k").reserve(count))


@pytest.mark.parametrize("floor", [2**63 - 1, 2**63, 2**64, 10**40, -1])
def test_a_floor_out_of_range(store: MemoryStore, floor: int) -> None:
    """A floor above which no nonce is left is refused, and a negative one."""
    refused(NonceRangeError, lambda: NonceProvider(store, "k").raise_floor(floor))


@pytest.mark.parametrize("floor", [1.5, "7", None, True])
def test_a_floor_that_is_no_number(store: MemoryStore, floor: Any) -> None:
    """A floor is a whole number."""
    refused(ConfigurationError, lambda: NonceProvider(store, "k").raise_floor(floor))


def test_the_greatest_floor() -> None:
    """Above the greatest floor there is one nonce, and then an error."""
    nonces = NonceProvider(MemoryStore(), "k")
    nonces.raise_floor(2**63 - 2)
    assert nonces.next() == 2**63 - 1
    refused(NonceRangeError, nonces.next)


def test_another_unit_than_the_key_s() -> None:
    """A program with another unit, rate or interval than the stored one is refused, with the command to change it."""
    store = MemoryStore()
    NonceProvider(store, "k", unit="ms").next()
    assert "set-unit" in refused(UnitMismatchError, NonceProvider(store, "k", unit="us").next)  # fmt: skip
    enter(CallGate(store, "k", rate=Rate(1.0, 5), min_interval=0.1), "M")
    for options in ({"rate": Rate(2.0, 5)}, {"min_interval": 0.2}):
        gate = CallGate(store, "k", **options)
        text = refused(ConfigurationError, partial(enter, gate, "M"))
        assert "set-tier" in text


def test_an_unknown_tier() -> None:
    """A tier that does not exist is refused, with those that do."""
    assert "starter, intermediate, pro" in refused(ConfigurationError, lambda: kraken.rate("gold"))  # fmt: skip


# --- places


def no_directory(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a file in a directory that does not exist."""
    return place / "missing" / "nonces.db", StoreUnavailableError


def a_directory(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a directory."""
    (place / "nonces.db").mkdir()
    return place / "nonces.db", StorePermissionError


def text(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a file of text."""
    path = place / "nonces.db"
    path.write_text("nonce=1\n" * 1000)
    path.chmod(0o600)
    return path, StoreCorruptError


def somebody_else_s(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a database of another program."""
    path = place / "nonces.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    path.chmod(0o600)
    return path, StoreCorruptError


def newer(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a database that a newer version has migrated."""
    path = place / "nonces.db"
    SQLiteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return path, StoreVersionError


def a_control_sign(place: Path) -> tuple[Path, type[NonceError]]:
    """Name a file with a line feed in its name."""
    return place / "a\nb.db", ConfigurationError


PLACES: Final = (no_directory, a_directory, text, somebody_else_s, newer, a_control_sign)  # fmt: skip


@pytest.mark.parametrize("make", PLACES)
def test_an_unusable_database(
    tmp_path: Path, make: Callable[[Path], tuple[Path, type[NonceError]]]
) -> None:
    """A place or a file that cannot be the database is refused, and not changed."""
    path, kind = make(tmp_path)
    content = path.read_bytes() if path.is_file() else b""
    refused(kind, lambda: SQLiteStore(path))
    assert (path.read_bytes() if path.is_file() else b"") == content


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize(
    "command", ["show", "calls", "watch", "next abc", f"raise-floor {'0' * 16} 7"]
)
def test_an_unusable_database_on_the_command_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], tuple[Path, type[NonceError]]],
    command: str,
) -> None:
    """There it is one line on stderr and exit code 2, and no file appears but the lock of a command that writes."""
    path, _ = make(tmp_path)
    before = listing(tmp_path)
    fails(capsys, *command.split(), "--db", path)
    more = {name for name, _ in listing(tmp_path)} - {name for name, _ in before}
    assert more <= {"nonces.db.lock"} if "raise" in command else not more


def test_a_read_only_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that SQLite may only read is refused before a nonce is given, and goes on when it may be written."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "k").next()
    connect = sqlite3.connect

    def only_read(database: str, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(database, **options)
        connection.execute("PRAGMA query_only = ON")
        return connection

    monkeypatch.setattr(sqlite3, "connect", only_read)
    text = refused(NonceError, lambda: NonceProvider(SQLiteStore(path), "k").next())
    assert "no nonce was issued" in text
    monkeypatch.undo()
    with SQLiteStore(path) as store:
        NonceProvider(store, "k").next()


@pytest.mark.skipif(
    os.getuid() == 0, reason="NOT RUN: root may write what is read-only"
)
def test_a_file_without_write_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of mode 0400 is refused to who wants to write, and can still be shown."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "k").next()
    path.chmod(0o400)
    refused(NonceError, lambda: NonceProvider(SQLiteStore(path), "k").next())
    fails(capsys, "next", fingerprint("k"), "--db", path)
    assert run(capsys, "show", "--db", path).code == 0


def test_a_relative_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A relative PERSISTENT_NONCE_DB would be another file in each directory, and is refused."""
    monkeypatch.setenv("PERSISTENT_NONCE_DB", "nonces.db")
    refused(ConfigurationError, open_store)
    for command in ("show", "doctor", "next a"):
        fails(capsys, *command.split())


# --- the command line


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that fails as commands do, and return its error."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+ \([^\n]+\)\n", err)
    assert err[:-1].isprintable()
    return err


@pytest.mark.parametrize(
    "command",
    [
        "nothing", "--nothing", "show --nothing", "show a b", "show nobody", "calls --limit 0", "calls --limit x",
        "watch --interval 0", "watch --interval x", "next", "next nobody", "raise-floor", "raise-floor k",
        "raise-floor k x", "raise-floor k 1.5", f"raise-floor k {2**63 - 1}", f"raise-floor k {2**63}",
        "raise-floor k -1", "raise-floor k -- -1", "raise-floor nobody 7", f"raise-floor k {'9' * 5000}",
        "set-unit k", "set-unit k minutes", "set-unit k s", "set-tier k", "set-tier k gold",
        "set-tier k --min-interval -1", "set-tier k --min-interval nan", "set-tier k --min-interval inf",
        "set-tier k --min-interval x", "set-tier k --attempts 0", "set-tier k --max-lead 1e12",
        "set-tier k --greatest 0", f"set-tier k --greatest {2**63}",
        "set-tier k --rate -1 5", "set-tier k --rate 1 0", "set-tier k --rate 1", "set-tier k pro --rate 1 5",
        "set-tier nobody pro", "reopen nobody", "doctor x", "demo x",
    ],
)  # fmt: skip
def test_bad_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Whatever is wrong with a command is one line on stderr and exit code 2, and changes nothing."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "k", label="k").next()
        before = store.read(fingerprint("k"))
    name, *rest = command.split()
    database = [] if name in ("demo", "nothing", "--nothing") else ["--db", path]
    fails(capsys, name, *database, *rest)
    with SQLiteStore(path) as store:
        assert store.read(fingerprint("k")) == before
        assert store.keys() == [fingerprint("k")]


def test_a_hostile_argument_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control signs in an argument do not reach the terminal, nor do they make a second line."""
    SQLiteStore(tmp_path / "nonces.db").close()
    for argument in ("\x1b[31mred", "a\nerror: b", "\u202egnp", "[bold]x"):
        fails(capsys, "show", argument, "--db", tmp_path / "nonces.db")
        fails(capsys, argument)
        fails(capsys, "show", "--db", tmp_path / argument / "x.db")
