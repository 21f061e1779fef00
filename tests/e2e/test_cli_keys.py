"""Which key and which database a command is about, however they are named."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, SQLiteStore
from persistent_nonce.state import fingerprint
from tests.support import commands
from tests.support.commands import Runner, run

database, ran = commands.database, commands.ran


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
