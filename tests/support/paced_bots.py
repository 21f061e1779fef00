"""krakenex bots in processes of their own, which make the calls that a test asks for and tell how each ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import krakenex

from persistent_nonce import SQLiteStore, rules
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.clock import SECOND
from persistent_nonce.state import Recovery
from persistent_nonce.testing import Arrival, Credentials, KrakenSimulator, ScaledClock
from tests.support.processes import GUARD, Child, Children
from tests.support.workers import say

__all__ = [
    "LONG",
    "Asked",
    "Bot",
    "Foreign",
    "Told",
    "command",
    "errors",
    "nonces",
    "start",
]

#: Seconds that a bot waits for a reply, real ones: neither it nor the library gives up a call of a busy machine.
LONG: Final = 3_000.0

#: A method with its data.
Asked = tuple[str, dict[str, Any]]


class Told(NamedTuple):
    """How a call of a bot ended."""

    method: str
    errors: list[str]  # the exchange's
    raised: list[str]  # the classes of the exception, if there was one
    text: str  # of the exception
    took: float  # seconds of the bot's clock


class Bot:
    """A bot as seen from the test."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def tell(self, *calls: Asked | str, gate_timeout: float = 1e5) -> None:
        """Let it make these calls."""
        self._say(calls, gate_timeout, 0)

    def repeat(self, *calls: Asked | str, until: int) -> None:
        """Let it make these calls over and over, until its monotonic clock shows so many ns."""
        self._say(calls, 1e5, until)

    def _say(
        self, calls: Sequence[Asked | str], gate_timeout: float, until: int
    ) -> None:
        plain = [(call, {}) if isinstance(call, str) else call for call in calls]
        self._child.tell(json.dumps([plain, gate_timeout, until]))

    def told(self) -> list[Told]:
        """Wait until all calls of the oldest order are made; return how they ended."""
        return [Told(*each) for each in json.loads(self._child.line())]

    def ask(self, call: Asked | str, *, gate_timeout: float = 1e5) -> Told:
        """Have one call made."""
        self.tell(call, gate_timeout=gate_timeout)
        (told,) = self.told()
        return told


def start(
    children: Children,
    exchange: KrakenSimulator,
    store: SQLiteStore,
    accounts: Sequence[Credentials],
    **options: Any,
) -> list[Bot]:
    """Start a bot for each of `accounts`, which may be the same one, and wait until all could begin.

    Key and secret go in by standard input.

    Args:
        options: of the bots' client, `recovery` as a dictionary.
    """
    scale = exchange.clock.scale
    started = [
        children.call(work, store.path, exchange.url, scale, options) for _ in accounts
    ]
    for child, account in zip(started, accounts, strict=True):
        child.tell(json.dumps(account))
    for child in started:
        child.wait_for("ready")
    return [Bot(child) for child in started]


class Foreign(krakenex.API):
    """A program outside this library that uses a key, with nonces in ms of the exchange's clock."""

    def __init__(self, exchange: KrakenSimulator, account: Credentials) -> None:
        super().__init__(*account)  # type: ignore[no-untyped-call]  # krakenex has no annotations
        self.uri = exchange.url
        self._clock = exchange.clock

    def _nonce(self) -> int:
        return self._clock.wall() // 1_000_000

    def balance(self) -> list[str]:
        """Make a call and return the exchange's errors."""
        reply = self.query_private("Balance")  # type: ignore[no-untyped-call]  # krakenex has no annotations
        errors: list[str] = reply["error"]
        return errors


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a program."""
    return subprocess.run(
        [sys.executable, "-m", "persistent_nonce", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD,
    )


def errors(told: Sequence[Told]) -> list[str]:
    """Return all errors of some calls, the exchange's and the raised ones."""
    return [error for each in told for error in (*each.errors, *each.raised[:1])]


def nonces(arrivals: Sequence[Arrival]) -> list[int]:
    """Return the nonces of requests, each of which has one."""
    found = [arrival.nonce for arrival in arrivals if arrival.nonce is not None]
    assert len(found) == len(arrivals)
    return found


# --- in the bot's own process ---------------------------------------------------------


def work(path: str, url: str, scale: int, options: dict[str, Any]) -> None:
    """Make the calls that are asked for, an order each line."""
    account = json.loads(sys.stdin.readline())
    recovery = options.pop("recovery", None)
    if recovery is not None:
        options["recovery"] = Recovery(**recovery)
    clock = ScaledClock(scale)
    # Who lets its turn pass for a second is passed over. The machine does not wake its processes any faster than
    # without the scale, so that second is a real one here.
    with (
        patch.object(rules, "PASS_OVER", scale * SECOND),
        SQLiteStore(path, clock=clock, timeout=60) as store,
    ):
        say("ready")
        for line in sys.stdin:
            calls, gate_timeout, until = json.loads(line)
            api = API(
                *account,
                store=store,
                timeout=LONG,
                gate_timeout=gate_timeout,
                **options,
            )
            api.uri = url
            say(json.dumps(list(_make(api, calls, clock, until))))


def _make(
    api: API, calls: Sequence[Asked], clock: ScaledClock, until: int
) -> Iterator[Told]:
    while True:
        for method, data in calls:
            yield _call(api, method, data, clock)
            if until and clock.mono() >= until:
                return
        if not until:
            return


def _call(api: API, method: str, data: dict[str, Any], clock: ScaledClock) -> Told:
    began = clock.mono()
    said: list[str] = []
    raised: list[str] = []
    text = ""
    try:
        said = api.query_private(method, data)["error"]
    except Exception as error:  # noqa: BLE001 - told to the test
        raised = [kind.__name__ for kind in type(error).__mro__]
        text = str(error)
    return Told(method, said, raised, text, (clock.mono() - began) / SECOND)
