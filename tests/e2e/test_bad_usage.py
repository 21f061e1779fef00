"""Whatever is wrong with a command is one line on stderr and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.state import fingerprint
from tests.support.commands import fails


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
