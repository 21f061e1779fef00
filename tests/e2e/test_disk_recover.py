"""From a state that something went wrong in, by `doctor` and `recover` on the command line, to nonces above all."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from persistent_nonce.state import fingerprint
from persistent_nonce.stores.marks import path_of
from tests.support import databases
from tests.support.commands import Ran, run
from tests.support.disk_actor import Crew
from tests.support.disk_faults import FAULTS, Older, beside
from tests.support.disk_ledger import KEYS

path = databases.path

RECOVER: Final = "persistent-nonce recover"


class Scene(NamedTuple):
    """A database that nobody uses any more, with how it was before its last nonces."""

    crew: Crew
    older: Older

    @property
    def path(self) -> Path:
        """The database."""
        return self.crew.path


def older_copy(scene: Scene) -> str:
    """Put an older copy in its place."""
    lost(scene)
    FAULTS["older in its place"](scene.path, scene.older.of(scene.path), DICE)
    return "the database went back: "


def lost_log(scene: Scene) -> str:
    """Lose the log of a killed program."""
    beside(scene.path, "-wal").unlink()
    beside(scene.path, "-shm").unlink()
    return "the database went back: "


def lost(scene: Scene) -> str:
    """Lose the database."""
    for suffix in ("", "-wal", "-shm"):
        beside(scene.path, suffix).unlink(missing_ok=True)
    return "is missing or empty, but marks of 2 keys lie beside it"


def emptied(scene: Scene) -> str:
    """Empty the database."""
    lost(scene)
    scene.path.touch(0o600)
    return "is missing or empty, but marks of 2 keys lie beside it"


def noise(scene: Scene) -> str:
    """Overwrite the database."""
    lost(scene)
    scene.path.write_bytes(DICE.randbytes(8192))
    scene.path.chmod(0o600)
    return "the file is not a database, or a damaged one"


def damaged_marks(scene: Scene) -> str:
    """Overwrite a mark."""
    content = bytearray(path_of(scene.path).read_bytes())
    content[9] ^= 1
    path_of(scene.path).write_bytes(content)
    return "1 of them are damaged"


def flipped_bit(scene: Scene) -> str:
    """Change a stored nonce."""
    with closing(sqlite3.connect(scene.path)) as hand, hand:
        hand.execute("UPDATE keys SET nonce = nonce - 1024")
    return "is damaged"


def lost_index(scene: Scene) -> str:
    """Damage the index of the call records, which no row tells of."""
    with closing(sqlite3.connect(scene.path)) as hand, hand:
        hand.execute("PRAGMA writable_schema = ON")
        hand.execute("DELETE FROM sqlite_schema WHERE name = 'calls_of_key'")
    return "2 keys, is damaged"


def changed_schema(scene: Scene) -> str:
    """Change the schema's text so that the table can be read, and not written."""
    with closing(sqlite3.connect(scene.path)) as hand, hand:
        hand.execute("PRAGMA writable_schema = ON")
        change = """replace(sql, '"nonce" > 0', '"nonce" > x0')"""
        hand.execute(f"UPDATE sqlite_schema SET sql = {change} WHERE name = 'calls'")  # noqa: S608 - our own words
    return "2 keys, is damaged"


DICE: Final = random.Random(3)
STATES: Final = [
    older_copy, lost_log, lost, emptied, noise, damaged_marks, flipped_bit, lost_index, changed_schema,
]  # fmt: skip


@pytest.fixture
def scene(path: Path, tmp_path: Path) -> Scene:
    """Return a database after some use, whose last program was killed."""
    with Crew(path) as crew:
        actor = crew.open()
        actor.begin()
        actor.close()
        actor = crew.open()
        older = Older(path, tmp_path / "older")
        actor.begin()  # far above what a ceiling of the older one covers
        assert actor.take(3) == []
        assert actor.call() == []
        actor.checkpoint()
        assert actor.take(3) == []
    return Scene(crew, older)


def ask(capsys: pytest.CaptureFixture[str], scene: Scene, *command: str) -> Ran:
    """Run a command on the database."""
    return run(capsys, *command, "--db", scene.path)


@pytest.mark.parametrize("harm", STATES)
def test_way_out(
    capsys: pytest.CaptureFixture[str], scene: Scene, harm: Callable[[Scene], str]
) -> None:
    """Each state is named by doctor with the way out, which leads to nonces above all (I9, I10; faults A11, A12)."""
    said = harm(scene)
    refused = scene.crew.newcomer()
    assert refused or harm is lost_index
    for error in refused:
        assert RECOVER in error
    doctor = ask(capsys, scene, "doctor")
    text = " ".join(doctor.out.split())
    assert (doctor.code, doctor.err) == (1, "")
    assert said in text
    assert RECOVER in text
    recovered = ask(capsys, scene, "recover", "--json")
    assert (recovered.code, recovered.err) == (0, "")
    keys = {key["key"]: key for key in recovered.data["keys"]}
    for name in KEYS:
        assert int(keys[fingerprint(name)]["nonce"]) > scene.crew.ledger.greatest[name]
        assert not keys[fingerprint(name)]["closed"]
    assert scene.crew.newcomer() == []
    assert ask(capsys, scene, "doctor").code == 0
    again = ask(capsys, scene, "recover")
    assert again.code == 0
    assert "nothing is wrong with" in " ".join(again.out.split())


def test_key_of_which_nothing_is_left(
    capsys: pytest.CaptureFixture[str], scene: Scene
) -> None:
    """A key whose row and mark are both damaged is closed, as recover says, until its floor is raised (I9, I10)."""
    flipped_bit(scene)
    path_of(scene.path).unlink()
    recovered = ask(capsys, scene, "recover")
    assert recovered.code == 0
    assert "closed: its row was damaged and it has no mark" in " ".join(recovered.out.split())  # fmt: skip
    assert ask(capsys, scene, "next", fingerprint(KEYS[0])).code == 2
    floor = str(scene.crew.ledger.greatest[KEYS[0]])
    raised = ask(capsys, scene, "raise-floor", fingerprint(KEYS[0]), floor)
    assert raised.code == 0
    done = ask(capsys, scene, "next", fingerprint(KEYS[0]))
    assert int(done.out) > int(floor)


def test_programs_that_still_run(
    capsys: pytest.CaptureFixture[str], scene: Scene
) -> None:
    """While a call is in flight nothing is rebuilt; when its program has ended it is on record (I5, I10)."""
    with Crew(scene.path) as crew:
        crew.ledger.greatest |= scene.crew.ledger.greatest
        actor = crew.open()
        assert actor.enter() == []
        damaged_marks(scene)
        before = scene.path.read_bytes()
        refused = ask(capsys, scene, "recover")
        assert refused.code == 2
        assert "a program still makes calls with" in refused.err
        assert scene.path.read_bytes() == before
        actor.kill()
        assert ask(capsys, scene, "recover").code == 0
        calls = ask(capsys, scene, "calls", "--json").data
        assert "interrupted" in str(calls)
        assert crew.newcomer() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root may give files away")
def test_place_that_cannot_be_trusted(
    capsys: pytest.CaptureFixture[str], scene: Scene
) -> None:
    """A database that another user owns is not rebuilt, and the error says whose it is (I9; fault A10)."""
    older_copy(scene)
    os.chown(scene.path, 61_002, 61_002)
    refused = ask(capsys, scene, "recover")
    assert refused.code == 2
    assert "belongs to user 61002" in refused.err
