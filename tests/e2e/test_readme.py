"""Every example of the README and of the pages in docs runs as it is printed, against a local exchange.

Each `python` block is a program of its own in an empty directory, with a database of its own; a block with a `test_…`
function is run by pytest. Three things are given to it, and nothing in it is changed:

* what is meant for https://api.kraken.com goes to the simulator;
* `kraken.key` in the working directory holds a key of the simulator, as krakenex reads it;
* `mybot`, which stands for the reader's own code: KEY, post and post_async, and clients of two other exchanges.

A `console` block is a command and what it prints, where numbers, names of keys and paths may differ. `sh` blocks are
not run; the commands of ours in them must exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from persistent_nonce import CallGate, NonceProvider, SQLiteStore, errors, kraken
from persistent_nonce.cli import commands
from persistent_nonce.testing import Credentials, KrakenSimulator

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text("utf-8")
PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

#: Seconds that one example may take.
PATIENCE: Final = 30

#: Starts an example with the exchange's address changed, in every request that it makes.
DRIVER: Final = """\
import runpy, sys
import aiohttp, requests

_url, _example = sys.argv[1:]

def led(send):
    def request(self, method, url, *args, **kwargs):
        url = str(url).replace("https://api.kraken.com", _url)
        return send(self, method, url, *args, **kwargs)
    return request

requests.Session.request = led(requests.Session.request)
aiohttp.ClientSession._request = led(aiohttp.ClientSession._request)
sys.argv = [_example]
sys.path.insert(0, "")
runpy.run_path(_example, run_name="__main__")
"""

#: A command of ours as it is typed: options of all, name, the rest.
TYPED: Final = re.compile(r"((?:--\w+ \S+ )*)([a-z-]+)(.*)")

#: A private call, as the examples write it with each client.
CALLED: Final = re.compile(
    r'(?:(?:query_private|post|post_async)\("|/0/private/|privatePost|get_account_)(\w+)'
)

#: The reader's own code, as the examples take it for granted.
MYBOT: Final = """\
import asyncio
from urllib.parse import urlencode
import requests
from persistent_nonce.testing.request import sign
from tests.support.venues import Bitfinex, Gemini

with open("kraken.key", encoding="ascii") as file:
    KEY, _SECRET = file.read().split()

def post(method, **fields):
    path, body = f"/0/private/{method}", urlencode(fields).encode()
    headers = {
        "API-Key": KEY,
        "API-Sign": sign(path, str(fields["nonce"]), body, _SECRET),
        "Content-Type": "application/x-www-form-urlencoded",
        "User-Agent": "mybot",
    }
    url = "https://api.kraken.com" + path
    return requests.post(url, data=body, headers=headers, timeout=10).json()

async def post_async(method, **fields):
    return await asyncio.to_thread(post, method, **fields)

def elsewhere(venue):
    def call(path, nonce, **fields):
        with venue.open():
            return venue.called(path, nonce, **fields)
    return call

bitfinex, gemini = elsewhere(Bitfinex()), elsewhere(Gemini())
"""


_FENCED: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, text: str) -> Iterator[Block]:
    """Yield the fenced blocks of the `text` of a page, those in lists too."""
    for found in _FENCED.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[2], textwrap.dedent(found[3]))


BLOCKS: Final = [
    block for page in PAGES for block in blocks(page, page.read_text("utf-8"))
]


def written_in(*languages: str) -> list[Block]:
    """Return the blocks of these languages."""
    return [block for block in BLOCKS if block.language in languages]


BACKUPS: Final = [block for block in written_in("python") if ".backup(" in block.text]
PROGRAMS: Final = [block for block in written_in("python") if block not in BACKUPS]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory, with a database in a directory of its own as the default."""
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o2770)  # so that an example may share it with a group
    monkeypatch.setenv("PERSISTENT_NONCE_DB", str(state / "nonces.db"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    work = tmp_path / "work"
    work.mkdir()
    return work


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange that enforces every rule."""
    with KrakenSimulator() as simulator:
        yield simulator


def execute(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `place` and return what came of it."""
    return subprocess.run(
        command,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_example(
    block: Block, place: Path, url: str, credentials: Credentials
) -> subprocess.CompletedProcess[str]:
    """Run a python example and return what came of it."""
    (place / "kraken.key").write_text("\n".join(credentials), "ascii")
    (place / "mybot.py").write_text(MYBOT, "utf-8")
    (place / "driver.py").write_text(DRIVER, "utf-8")
    example = place / "test_example.py"
    # Behind as many lines as in the page, so that a traceback names the line there.
    example.write_text("\n" * block.line + block.text, "utf-8")
    run = ["driver.py", url]
    if "\ndef test_" in block.text:
        run = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = execute([sys.executable, "-W", "error", *run, example.name], place)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_example_runs(block: Block, place: Path, exchange: KrakenSimulator) -> None:
    """A python example ends well, and the exchange accepts each call that is written in it, in this order."""
    credentials = exchange.add_key()
    run_example(block, place, exchange.url, credentials)
    stats = exchange.stats(credentials.key)
    arrived = [(a.method.lower(), a.verdict) for a in stats.arrivals]
    written = CALLED.findall(block.text)
    if "KrakenSimulator" in block.text:  # it has an exchange of its own
        written = []
    assert arrived == [(method.lower(), "accepted") for method in written]


def test_backup_of_a_live_database(place: Path, exchange: KrakenSimulator) -> None:
    """The copy that the page on deployment makes, while a program is at work, is a store that knows its nonces."""
    (block,) = BACKUPS
    credentials = exchange.add_key()
    with SQLiteStore(os.environ["PERSISTENT_NONCE_DB"]) as store:
        nonces = NonceProvider(store, credentials.key)
        floor = nonces.raise_floor(nonces.next() + 60_000)
        run_example(block, place, exchange.url, credentials)
        assert nonces.next() == floor + 1
    (place / "nonces-backup.db").chmod(0o600)
    with SQLiteStore(place / "nonces-backup.db") as copy:
        assert NonceProvider(copy, credentials.key).next() == floor + 1


# --- console blocks -------------------------------------------------------------------


@contextmanager
def busy_key(path: str) -> Iterator[None]:
    """Have a key with a call in flight and another in the queue, as the sample of `show` has."""
    with SQLiteStore(path) as store, ThreadPoolExecutor() as threads:
        gate = CallGate(
            store, "sample", label="main", rate=kraken.rate("starter"), min_interval=0.2
        )
        with gate.call("Balance"):
            pass
        with gate.call("AddOrder", cost=0, priority=kraken.PLACE):
            waiting = threads.submit(_call, gate)
            _until(lambda: bool(store.read(gate.key).queue))
            yield
        waiting.result(PATIENCE)


def _call(gate: CallGate) -> None:
    with gate.call("OpenOrders"):
        pass


def _until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def shape(text: str) -> str:
    """Return `text` without what differs from one run to the next: paths, names of keys, numbers, states."""
    text = re.sub(r"^/\S+$", "PATH", text.rstrip("\n"), flags=re.MULTILINE)
    text = re.sub(r"\b[0-9a-f]{16}\b", "KEY", text)
    text = re.sub(r"\((running|sleeping)\)", "(STATE)", text)
    return re.sub(r"\d+(\.\d+)?", "N", text)


@pytest.mark.parametrize("block", written_in("console"), ids=str)
def test_command_prints_what_is_shown(block: Block, place: Path) -> None:
    """A command in a console block prints what stands below it, but for numbers, keys and paths."""
    prompt, _, expected = block.text.partition("\n")
    assert prompt.startswith("$ persistent-nonce ")
    command = [sys.executable, "-m", "persistent_nonce", *shlex.split(prompt)[2:]]
    with busy_key(os.environ["PERSISTENT_NONCE_DB"]):
        done = execute(command, place)
    assert (done.returncode, done.stderr) == (0, "")
    assert shape(done.stdout) == shape(expected), done.stdout


# --- what the pages say about commands, errors and files ------------------------------


def test_every_command_is_in_the_table() -> None:
    """The README's table of commands has each command, with its arguments, and no other."""
    (section,) = re.findall(
        r"^## The command line$(.*?)^## ", README, re.MULTILINE | re.DOTALL
    )
    table = re.findall(r"^\| `([a-z-]+)([^`]*)` \|", section, re.MULTILINE)
    assert sorted(name for name, _ in table) == sorted(commands.commands)
    for name, usage in table:
        known = {
            option
            for parameter in commands.commands[name].params
            for option in (*parameter.opts, parameter.human_readable_name)
        }
        assert known.issuperset(re.findall(r"--[a-z-]+|[A-Z]{3,}", usage)), name


@pytest.mark.parametrize("block", written_in("sh", "console"), ids=str)
def test_commands_of_ours_exist(block: Block) -> None:
    """What a page tells people to type is a command of ours, with arguments that it takes."""
    lines = (line.partition("persistent-nonce ")[2] for line in block.text.splitlines())
    for typed in filter(None, lines):
        options, name, rest = TYPED.fullmatch(typed).groups()  # type: ignore[union-attr]  # else it is no command
        rest = re.sub(r"\$\(\(.*\)\)", "1", rest).replace("UNIT", "ns")
        with commands.make_context("persistent-nonce", [*shlex.split(options), name]):
            command = commands.commands[name]
            command.make_context(name, shlex.split(rest)).close()


def test_commands_in_prose_exist() -> None:
    """A command that a page mentions is one of ours."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    named = re.findall(r"persistent-nonce (?:--db \S+ )?([a-z-]+)", text)
    assert set(named) <= set(commands.commands)
    assert len(named) > len(commands.commands)


def test_every_error_is_explained() -> None:
    """The README's table has each error that this version can raise, and no other."""
    table = re.findall(r"^\| (`\w+Error`(?:, `\w+Error`)*) \|", README, re.MULTILINE)
    named = set(re.findall(r"\w+", " ".join(table)))
    bases = {"NonceError", "CallError", "StoreError"}
    assert named == set(errors.__all__) - bases


def test_guarantees_are_numbered() -> None:
    """The README has the guarantees I1 to I11, in order."""
    numbers = re.findall(r"^\* \*\*I(\d+) ", README, re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the repository, or to a heading in one, finds it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
        assert not heading or heading in anchors, target
