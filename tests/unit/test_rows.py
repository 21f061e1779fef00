"""Rows: what is stored comes back, and a bit that is not as it was written never does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from persistent_nonce.errors import StoreCorruptError, StoreVersionError
from persistent_nonce.state import MAX_NONCE, KeyState, Running, Turn, Waiting
from persistent_nonce.stores import rows, schema

KEY = "0123456789abcdef"
PLAIN = KeyState(KEY)
MARKED = KeyState(
    KEY, unit="ns", nonce=1_700_000_000_123_456_789, seen=5, ceiling=6, synced=6
)
FULL = MARKED._replace(
    label="é “quoted” ' \" \\ , ) \n",
    nonce=MAX_NONCE,
    boot="b",
    not_before=-5,
    set_at=-6,
    exempt=True,
    closed=True,
    turn=Turn("S:1", 5),
    queue=(
        Waiting("S:1", "S", "Bal\u00e4nce \U0001f600", 1, -3, 7, 1),
        Waiting("S:2", "S", "AddOrder", 0, 20, 8, 2, late=True),
    ),
    running=Running("S:0", "S", "x", 1, 2, -3, 4, 5, 6),
)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """Yield a database with our schema, in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    yield connection
    connection.close()


def _read(connection: sqlite3.Connection) -> tuple[Any, ...]:
    found = connection.execute(rows.select_row, (KEY,)).fetchall()
    assert len(found) == 1
    row: tuple[Any, ...] = found[0]
    return row


@pytest.mark.parametrize(
    "state", [PLAIN, MARKED, FULL], ids=["plain", "marked", "full"]
)
def test_state_comes_back(connection: sqlite3.Connection, state: KeyState) -> None:
    """A state is the same after it has been through SQLite, to the type of each field."""
    row = rows.write_row(connection.execute, (), state)
    assert _read(connection) == row
    found = rows.decode(_read(connection))
    assert found == state
    assert list(map(type, found)) == list(map(type, state))
    assert rows.encode(found, 1) == row


@pytest.mark.parametrize("state", [PLAIN, FULL], ids=["plain", "full"])
def test_update_stores_all_that_is_new(
    connection: sqlite3.Connection, state: KeyState
) -> None:
    """Whatever differs from the row before is in the row afterwards, and the seals differ too."""
    old = rows.write_row(connection.execute, (), MARKED)
    new = rows.write_row(connection.execute, old, state)
    assert new == rows.encode(state, 2)
    assert _read(connection) == new
    assert rows.seal(old) != rows.seal(new)
    assert connection.execute(rows.select_seal, (KEY,)).fetchall() == [rows.seal(new)]


def test_each_write_has_a_seal_of_its_own() -> None:
    """The same state written again is told apart: it may have been another in between."""
    assert rows.seal(rows.encode(FULL, 1)) != rows.seal(rows.encode(FULL, 2))


def test_every_flipped_bit_of_a_number_is_found() -> None:
    """No bit of any stored number can change unnoticed, that of the check included (A11)."""
    row = rows.encode(FULL, 9)
    tried = 0
    for place, value in enumerate(row):
        if not isinstance(value, int):
            continue
        for bit in range(64):
            flipped = (value ^ (1 << bit)) - (1 << 64 if bit == 63 else 0)
            with pytest.raises(StoreCorruptError, match="no nonce was issued") as found:
                rows.decode((*row[:place], flipped, *row[place + 1 :]))
            assert "recover" in found.value.hint
            tried += 1
    assert tried > 64 * 15


def test_every_flipped_bit_of_a_text_is_found() -> None:
    """No bit of any stored text can change unnoticed (A11)."""
    row = rows.encode(FULL, 9)
    for place, value in enumerate(row):
        if not isinstance(value, str):
            continue
        for number, letter in enumerate(value):
            for bit in range(7):
                other = chr(ord(letter) ^ (1 << bit))
                text = value[:number] + other + value[number + 1 :]
                with pytest.raises(StoreCorruptError):
                    rows.decode((*row[:place], text, *row[place + 1 :]))


def test_swapped_columns_are_found() -> None:
    """A number in another column's place is not taken for that column's."""
    row = rows.encode(MARKED, 1)
    nonce, seen = KeyState._fields.index("nonce"), KeyState._fields.index("seen")
    swapped = list(row)
    swapped[nonce], swapped[seen] = row[seen], row[nonce]
    with pytest.raises(StoreCorruptError):
        rows.decode(tuple(swapped))


def test_row_of_another_schema_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that another version of the schema has sealed is not trusted, whatever it holds (A38)."""
    row = rows.encode(MARKED, 1)
    monkeypatch.setattr(schema, "SCHEMA", schema.SCHEMA + 1)
    with pytest.raises(StoreCorruptError):
        rows.decode(row)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("nonce", -1),
        ("nonce", "text"),
        ("nonce", 1.5),
        ("nonce", None),
        ("unit", "hours"),
        ("ceiling", -1),
        ("queue", None),
        ("key", "short"),
    ],
)
def test_schema_refuses_what_cannot_be(
    connection: sqlite3.Connection, column: str, value: object
) -> None:
    """The table itself refuses values that no state has, whoever writes them."""
    rows.write_row(connection.execute, (), MARKED)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f'UPDATE keys SET "{column}" = ?', (value,))  # noqa: S608 - names of ours


def test_largest_nonce_stays_a_number(connection: sqlite3.Connection) -> None:
    """The greatest nonce is stored as an integer, not as a float (A23)."""
    rows.write_row(connection.execute, (), FULL)
    query = "SELECT nonce, typeof(nonce) FROM keys"
    assert connection.execute(query).fetchall() == [(2**63 - 1, "integer")]


def test_version_of_our_database(connection: sqlite3.Connection) -> None:
    """A database that was set up says its version; an empty one is version 0."""
    assert schema.version(connection) == schema.SCHEMA
    empty = sqlite3.connect(":memory:")
    assert schema.version(empty) == 0
    empty.close()


def test_newer_version_is_refused(connection: sqlite3.Connection) -> None:
    """A database of a newer version of the library is refused, with both numbers (A38)."""
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreVersionError, match="schema 99, this version knows 1"):
        schema.version(connection)


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE t (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"],
)
def test_somebody_elses_database_is_refused(statement: str) -> None:
    """A database with tables, a version or an owner of its own is not ours."""
    connection = sqlite3.connect(":memory:")
    connection.execute(statement)
    with pytest.raises(StoreCorruptError, match="not one of persistent_nonce"):
        schema.version(connection)
    connection.close()
