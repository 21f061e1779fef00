"""I11: an API key, and a secret that a program lets slip, reach no file, log, error text, repr or output.

A marked key goes through every way to use and to misuse the library, a marked secret through the bodies of calls and
the errors in them. Then everything that was written is searched for them, whole and in parts.
"""

from __future__ import annotations

import base64
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import (
    CallGate,
    InvalidNonceError,
    NonceError,
    NonceProvider,
    Rate,
    Recovery,
    SQLiteStore,
)
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.state import Changed, KeyState, fingerprint
from tests.support.commands import run

#: A key and a secret in the form of Kraken's, which nothing else contains.
KEY: Final = "KEYMARKqZ7+" + "kX3/" * 10 + "zEND1"
SECRET: Final = base64.b64encode(b"SECRETMARK" * 6 + b"tail").decode()

#: What must be found nowhere: both, their beginnings and ends, and the secret as bytes.
MARKS: Final = (KEY[:8], KEY[-8:], "kX3/kX3/", SECRET[:8], SECRET[-8:], "SECRETMARK")


class SlipError(Exception):
    """An error of a client that names key and secret."""


class Told:
    """All that is said while a test runs: logs, errors, reprs, outputs."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def error(self, error: BaseException) -> None:
        """Take in an error of ours, with its chain of causes but without the source lines of a traceback."""
        link: BaseException | None = error
        while isinstance(link, NonceError):
            self.texts += [str(link), repr(link), link.hint, repr(pickle.dumps(link))]
            self.texts += traceback.format_exception_only(link)
            link = link.__cause__

    def expect(self, do: Callable[[], object]) -> None:
        """Do what raises an error of ours."""
        with pytest.raises(NonceError) as caught:
            do()
        self.error(caught.value)

    def check(self, directory: Path) -> None:
        """Search everything for the marks."""
        names = [str(path) for path in directory.rglob("*")]
        contents = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]  # fmt: skip
        assert any(fingerprint(KEY).encode() in content for content in contents)
        for mark in MARKS:
            assert not [text for text in (*self.texts, *names) if mark in text]
            assert not [c for c in contents if mark.encode() in c]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """Return what takes in all that is said."""
    caplog.set_level(logging.DEBUG)
    return Told()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLiteStore]:
    """Return an open store."""
    with SQLiteStore(tmp_path / "nonces.db") as store:
        yield store


def slip() -> None:
    """Raise an error of a client, as its requests' own errors do."""
    raise SlipError(f"POST failed: API-Key {KEY}, secret {SECRET}")


def enter(gate: CallGate, method: str = "Balance", *, cost: int = 1) -> None:
    """Make a call."""
    with gate.call(method, cost=cost, timeout=0.0):
        pass


def use(store: SQLiteStore, told: Told) -> None:
    """Use every part of the library with the marked key, and misuse it."""
    nonces = NonceProvider(store, KEY, label="main")
    gate = CallGate(store, KEY, min_interval=0.0, rate=Rate(0.001, 5))
    nonces.next()
    nonces.reserve(3)
    nonces.raise_floor(nonces.last + 1)
    with gate.call("Balance") as call:
        told.texts += [repr(call), str(call)]
        told.expect(lambda: enter(gate))  # nested
        told.expect(lambda: call.settle("no such"))  # type: ignore[arg-type]  # on purpose
    with suppress(SlipError), gate.call("AddOrder", durable=True):
        slip()
    with suppress(SlipError), gate.call("Withdraw") as call:
        call.not_sent()
        slip()
    for attempt in gate.attempts("Balance"):
        with attempt as call:
            call.settle("error")
    told.texts += [repr(thing) for thing in (store, nonces, gate, gate.call("M"), attempt)]  # fmt: skip
    told.texts += [str(vars(nonces)), str(vars(gate))]
    told.expect(lambda: nonces.raise_floor(2**63))
    told.expect(lambda: NonceProvider(store, KEY, unit="us").next())
    told.expect(lambda: enter(CallGate(store, KEY, min_interval=9)))
    told.expect(lambda: enter(gate, cost=6))
    told.expect(lambda: NonceProvider(store, KEY, unit=SECRET and "hours"))
    told.expect(lambda: nonces.reserve(0))


def misfortune(store: SQLiteStore, told: Told) -> None:
    """Let nonces be refused until the key is closed, and try to use it then."""
    gate = CallGate(store, KEY, recovery=Recovery(attempts=1))
    with pytest.raises(InvalidNonceError) as caught, gate.call("Balance"):
        raise InvalidNonceError
    told.error(caught.value)
    told.expect(lambda: enter(gate))
    told.expect(lambda: NonceProvider(store, KEY).next())


def test_the_library_tells_nothing(
    store: SQLiteStore, told: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither key nor secret is in any file, file name, log line, error, repr or pickle, while open and when closed."""
    use(store, told)
    misfortune(store, told)
    told.texts += [caplog.text, *(str(vars(record)) for record in caplog.records)]
    assert "refused" in caplog.text
    told.check(tmp_path)
    store.close()
    told.check(tmp_path)
    assert len(told.texts) > 50


def test_a_lost_lock_tells_nothing(
    store: SQLiteStore, told: Told, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of the store name the key by its fingerprint, when a row is damaged or a file is gone."""
    nonces = NonceProvider(store, KEY, label="main")
    nonces.next()
    (tmp_path / "nonces.db-shm").rename(tmp_path / "gone")
    told.expect(nonces.next)
    (tmp_path / "gone").rename(tmp_path / "nonces.db-shm")
    store.close()
    told.expect(nonces.next)
    told.texts.append(caplog.text)
    told.check(tmp_path)


def test_an_error_in_a_change_tells_nothing(
    store: SQLiteStore, told: Told, tmp_path: Path
) -> None:
    """An error that a change of the state raises passes through, and leaves nothing behind."""
    NonceProvider(store, KEY).next()

    def change(state: KeyState, now: object) -> Changed:
        raise SlipError(SECRET)

    with pytest.raises(SlipError):
        store.update(fingerprint(KEY), change)
    told.check(tmp_path)


COMMANDS: Final = (
    "show", "show --json", "show main", "calls", "calls --json", "calls --in-doubt", "doctor", "doctor --json",
    "next main", "raise-floor main 1", "set-tier main pro", "set-unit main us", "reopen main",
)  # fmt: skip

#: The API key or the secret where a fingerprint, a value, an option or a command belongs.
SLIPS: Final = (
    f"show {KEY}", f"show {SECRET}", f"calls {KEY}", f"next {KEY}", f"raise-floor {KEY} 7",
    f"raise-floor main {SECRET}",
    f"set-unit {KEY} us", f"set-unit main {SECRET}", f"set-tier {KEY} pro", f"set-tier main {SECRET}", f"reopen {KEY}",
    KEY, SECRET, f"show main {KEY}", f"show --{SECRET}", f"calls --limit {SECRET}", f"doctor {KEY}", f"demo {KEY}",
    f"watch {KEY}", f"watch main --interval {SECRET}", f"set-tier main --rate {KEY} {SECRET}",
)  # fmt: skip


def test_the_command_line_tells_nothing(
    store: SQLiteStore, told: Told, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command prints key or secret, also where one was given in place of something else."""
    use(store, told)
    misfortune(store, told)
    database = ("--db", tmp_path / "nonces.db")
    for command in COMMANDS:
        told.texts += run(capsys, *command.split(), *database)[1:]
    for command in SLIPS:
        code, out, err = run(capsys, *command.split())
        assert code == 2
        told.texts += [out, err]
        code, out, err = run(capsys, *command.split(), *database)
        assert code == 2
        told.texts += [out, err]
    told.check(tmp_path)


def test_who_gives_the_key_itself_is_told_its_fingerprint(
    store: SQLiteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the API key is given as KEY the error says so, and names the fingerprint."""
    NonceProvider(store, KEY).next()
    error = run(capsys, "next", KEY, "--db", tmp_path / "nonces.db").err
    assert "that is an API key itself" in error
    assert fingerprint(KEY) in error


def test_an_empty_key_is_not_repeated(told: Told) -> None:
    """Also what is refused as a key is not repeated."""
    for key in ("", None, KEY.encode()):
        with pytest.raises(ConfigurationError) as caught:
            fingerprint(key)  # type: ignore[arg-type]  # on purpose
        told.error(caught.value)
    assert not [text for text in told.texts if KEY[:8] in text]
