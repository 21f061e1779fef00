"""The commands that change a key: the next nonce, its floor, unit and tier, and its opening."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistent_nonce import NonceProvider, Rate, SQLiteStore
from persistent_nonce.state import fingerprint
from tests.support import commands
from tests.support.commands import Runner, run

database, ran = commands.database, commands.ran


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
