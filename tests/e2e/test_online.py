"""What the exchange says of a key is held against what is known here: by `verify()` and `doctor --online`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import requests

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.findings import Finding
from persistent_nonce.state import KeyState, fingerprint
from persistent_nonce.testing import Credentials, KrakenSimulator
from tests.support import paced_bots
from tests.support.commands import Ran, Runner
from tests.support.paced_bots import Foreign
from tests.support.trading import client

#: What is looked at, in this order.
ASKED: Final = ["floor", "unit", "nonce window", "last use"]

#: A window of the nonces of an hour in ms, and one that holds those of all finer units.
HOUR: Final = 3_600_000
ALL: Final = 2**62


class Site(NamedTuple):
    """An exchange with a key, which this process uses, and the command line."""

    exchange: KrakenSimulator
    account: Credentials
    store: SQLiteStore
    api: API
    file: Path
    run: Runner

    @property
    def state(self) -> KeyState:
        """What is stored of the key."""
        return self.store.read(fingerprint(self.account.key))

    @property
    def floor(self) -> int:
        """The greatest nonce that the exchange has accepted."""
        return self.exchange.stats(self.account.key).nonce

    def balance(self) -> None:
        """Make a call that is accepted."""
        assert self.api.query_private("Balance")["error"] == []

    def show(self) -> str:
        """Return what `show` prints of the key, as one line."""
        done = self.run("show", fingerprint(self.account.key))
        assert (done.code, done.err) == (0, "")
        return " ".join(done.out.split())

    def doctor(self, *options: object) -> Ran:
        """Run `doctor` with options; nothing that it says gives the key or the secret away (I11)."""
        done = self.run("doctor", *options)
        check_silent(done, self.account)
        return done

    def online(self, *options: object) -> Ran:
        """Run `doctor` and let it ask the exchange."""
        return self.doctor("--online", self.file, "--uri", self.exchange.url, *options)

    def found(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """Return the exit code of `doctor`, and its findings at the exchange by what was looked at."""
        done = self.online("--json")
        about = f"exchange, key {fingerprint(self.account.key)}"
        return done.code, {
            finding["about"].removeprefix(about).removeprefix(", "): finding
            for finding in done.data
            if finding["about"].startswith(about)
        }


def check_silent(done: Ran, account: Credentials | list[str]) -> None:
    """Check that no part of a key or a secret was printed (I11)."""
    for secret in account:
        for at in range(0, len(secret) - 8, 4):
            assert secret[at : at + 8] not in done.out + done.err


@pytest.fixture
def site(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Site]:
    """Run an exchange by the machine's clock, which the command line has too, with options that the test gives."""
    with (
        KrakenSimulator(
            **{"latency": 0.005, **getattr(request, "param", {})}
        ) as exchange,
        SQLiteStore(tmp_path / "nonces.db") as store,
    ):
        account = exchange.add_key()
        file = tmp_path / "the.key"
        file.write_text(f"{account.key}\n{account.secret}\n")
        api = client(exchange, account, store)
        run = Runner(capsys, tmp_path / "nonces.db")
        yield Site(exchange, account, store, api, file, run)


def wrong(findings: list[Finding]) -> list[str]:
    """Return what was found wrong."""
    return [finding.about for finding in findings if finding.wrong]


COUNTS: Final = pytest.mark.parametrize(
    "site",
    [{"counts_itself": True}, {"counts_itself": False}],
    indirect=True,
    ids=["own call counted", "own call not counted"],
)


@COUNTS
def test_nothing_is_wrong_with_a_key_that_is_used_here_alone(site: Site) -> None:
    """Nothing is found at a new key, nor at one that was used here, and `doctor` ends as without the exchange."""
    findings = site.api.verify()
    assert [finding.about for finding in findings] == ASKED
    assert wrong(findings) == []
    site.balance()
    assert wrong(site.api.verify()) == []
    code, found = site.found()
    assert list(found) == ASKED
    assert [finding for finding in found.values() if finding["wrong"]] == []
    assert code == site.doctor().code
    assert site.state.diagnosis == ""
    methods = [a.method for a in site.exchange.stats(site.account.key).arrivals]
    assert methods == ["GetApiKeyInfo", "Balance", "GetApiKeyInfo", "GetApiKeyInfo"]


@pytest.mark.parametrize("site", [{"nonce_window": 5000}], indirect=True)
def test_a_nonce_window_is_found(site: Site) -> None:
    """A window is told with what to do, by `verify`, `doctor` and `show`, until it is gone; calls go on."""
    findings = site.api.verify()
    assert wrong(findings) == ["nonce window"]
    (window,) = (finding for finding in findings if finding.wrong)
    assert window.said.startswith("5000 ticks")
    assert window.do == "set it to 0 in the settings of the API key"
    code, found = site.found()
    assert code == 1
    assert [about for about in found if found[about]["wrong"]] == ["nonce window"]
    assert (found["nonce window"]["said"], found["nonce window"]["do"]) == window[2:]
    assert window.said in site.show()
    offline = site.doctor()
    assert offline.code == 1
    assert window.said in " ".join(offline.out.split())
    site.balance()


@pytest.mark.parametrize(
    "site",
    [{"nonce_window": HOUR, "counts_itself": counts} for counts in (True, False)],
    indirect=True,
    ids=["own call counted", "own call not counted"],
)
def test_a_floor_that_is_higher_within_a_window_is_followed(site: Site) -> None:
    """What a foreign program used is told, and the next nonce is above it, as it is without a window."""
    site.balance()
    floor = site.exchange.raise_floor(site.account.key, by_seconds=300)
    code, found = site.found()
    assert code == 1
    assert [about for about in found if found[about]["wrong"]] == [
        "floor",
        "nonce window",
    ]
    said = found["floor"]["said"]
    assert said.startswith(f"the exchange has accepted {floor}, 300 s ahead") or (
        f"{floor}, 299 s ahead" in said
    )
    assert site.state.nonce == floor
    assert said in site.show()
    site.balance()
    assert site.floor == floor + 1
    assert site.state.nonce <= site.state.bound
    assert wrong(site.api.verify()) == ["nonce window"]


@pytest.mark.parametrize("site", [{"nonce_window": ALL}], indirect=True)
def test_a_floor_in_a_finer_unit_within_a_window_closes_the_key(site: Site) -> None:
    """A floor that reads as a time in us is not followed: no process calls again until `set-unit`."""
    site.balance()
    floor = site.exchange.raise_floor(site.account.key, by_seconds=300, unit="us")
    code, found = site.found()
    assert code == 1
    key = fingerprint(site.account.key)
    assert found["unit"]["said"] == (
        f"{floor} looks like a time in us, but the key counts in ms: another program uses this key in us"
    )
    assert f"set-unit {key} us" in found["unit"]["do"]
    state = site.state
    assert state.closed
    assert state.nonce <= state.bound
    assert found["unit"]["said"] in state.diagnosis
    assert found["unit"]["said"] in site.show()
    before = site.exchange.stats(site.account.key).requests
    with pytest.raises(KeyClosedError, match="looks like a time in us") as refused:
        site.api.query_private("Balance")
    assert isinstance(refused.value, requests.exceptions.ConnectTimeout)
    _, found = site.found()
    assert "is closed" in found[""]["said"]
    assert site.exchange.stats(site.account.key).requests == before
    done = site.run("set-unit", key, "us")
    assert (done.code, done.err) == (0, "")
    site.balance()


@pytest.mark.parametrize("site", [{"counts_itself": False}], indirect=True)
def test_a_foreign_writer_between_our_calls_is_found(site: Site) -> None:
    """A nonce that lies below ours but was not issued here gives another program away, though nothing was refused."""
    site.balance()
    assert Foreign(site.exchange, site.account).balance() == []
    theirs = site.floor
    code, found = site.found()
    assert code == 1
    assert [about for about in found if found[about]["wrong"]] == ["floor"]
    said = found["floor"]["said"]
    assert said == (
        f"the exchange has accepted {theirs}, which no call on record here had: another program uses this key"
    )
    assert found["floor"]["do"] == "stop that program, or give it a key of its own"
    assert said in site.show()
    assert wrong(site.api.verify()) == []  # it did not come again
    assert site.state.diagnosis == ""


@pytest.mark.parametrize("site", [{"counts_itself": False}], indirect=True)
def test_a_key_that_was_used_before_this_library_is_not_suspected(site: Site) -> None:
    """What another program did before the first call here is the past, and no finding."""
    site.exchange.raise_floor(site.account.key, to=1_600_000_000_000)
    account = site.exchange._exchange._accounts[site.account.key]
    account.last_used = 1_600_000_000
    findings = site.api.verify()
    assert wrong(findings) == []
    assert "at 2020-09-13 12:26:40Z" in findings[-1].said
    site.balance()


# --- what cannot be asked -------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\n\n",
        b"%key\n",
        b"\xff\xfe%key\n%secret\n",
        b"%key\nabcde\n",
    ],
    ids=["missing", "empty", "blank", "no secret", "no text", "no base64"],
)
def test_a_bad_key_file_is_one_line(site: Site, content: bytes | None) -> None:
    """A file without key and secret ends the command with one line that repeats nothing of it, and nothing is sent."""
    site.file.unlink()
    if content is not None:
        key, secret = (part.encode() for part in site.account)
        site.file.write_bytes(content.replace(b"%key", key).replace(b"%secret", secret))
    done = site.online()
    assert (done.code, done.out) == (2, "")
    assert re.match("error: the (secret in the )?key file ", done.err)
    assert done.err.count("\n") == 1
    assert site.exchange.stats().requests == 0


@pytest.mark.parametrize(
    ("place", "error"), [(0, "EAPI:Invalid key"), (1, "EAPI:Invalid signature")]
)
def test_credentials_that_are_wrong_are_a_finding(
    site: Site, place: int, error: str
) -> None:
    """What the exchange refuses is told in its words; nothing of the key or the secret is."""
    given = list(site.account)
    given[place] = KrakenSimulator().add_key()[place]  # another exchange's
    site.file.write_text("\n".join(given))
    done = site.online()
    check_silent(done, given)
    assert done.code == 1
    about = f"exchange, key {fingerprint(given[0])}"
    said = f"{about}: GetApiKeyInfo was answered: {error}"
    assert said in " ".join(done.out.split())


def test_the_command_as_a_program(site: Site) -> None:
    """Run as a program, `doctor` finds the same, and neither output has the key or the secret (I11)."""
    site.file.write_text(f"{site.account.key}\n{KrakenSimulator().add_key().secret}\n")
    options = ("--db", site.store.path, "--online", site.file)
    done = paced_bots.command("doctor", *options, "--uri", site.exchange.url)
    check_silent(Ran(done.returncode, done.stdout, done.stderr), site.account)
    assert done.returncode == 1
    assert "GetApiKeyInfo was answered: EAPI:Invalid signature" in done.stdout


def test_an_exchange_that_does_not_answer_is_a_finding(site: Site) -> None:
    """Where nobody listens `doctor` says so and keeps its other findings; the call is on record as not sent."""
    uri = site.exchange.url
    site.exchange.close()
    done = site.doctor("--online", site.file, "--uri", uri)
    assert (done.code, done.err) == (1, "")
    assert "no reply to GetApiKeyInfo: ConnectionError" in done.out
    assert "file system" in done.out
    (call,) = site.store.calls(fingerprint(site.account.key))
    assert call.outcome == "not_sent"
