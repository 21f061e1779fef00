"""Clients in processes of their own whose orders may or may not have been executed.

Key and secret come in by standard input, as the first line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import requests

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.testing import Credentials, ScaledClock
from tests.support.processes import GUARD, Child, Children
from tests.support.simulated import LIMIT
from tests.support.workers import say

__all__ = [
    "Trader",
    "command_line",
    "crowd",
    "hold",
    "look",
    "place",
    "reads",
    "stream",
]

#: Real seconds that a client waits for a reply; what hangs that long is killed, and no slow machine is taken for it.
_TIMEOUT: Final = 3_000.0

#: Calls after which a stream without end dries up, so that whoever it has starved gets in at last.
_ENDLESS: Final = 400

#: An order that is filled, and so closed, at once.
MARKET: Final = {**LIMIT, "ordertype": "market"}


def command_line(store: SQLiteStore, *arguments: str) -> str:
    """Return what a command of another process prints, in lines of any length."""
    command = [sys.executable, "-m", "persistent_nonce", *arguments]
    command += ["--db", str(store.path)]
    environment = {**os.environ, "COLUMNS": "250"}
    return subprocess.check_output(command, text=True, env=environment, timeout=GUARD)


def _client(path: str, url: str, scale: int) -> API:
    key, secret = sys.stdin.readline().split()
    store = SQLiteStore(path, clock=ScaledClock(scale), timeout=60)
    api = API(
        key,
        secret,
        store=store,
        tier="pro",
        min_interval=0.0,
        timeout=_TIMEOUT,
        gate_timeout=3_600.0 * scale,
    )
    api.uri = url
    return api


# --- orders, one after the other


def place(path: str, url: str, scale: int, name: str, numbers: list[int]) -> None:
    """Place the orders of these numbers, each once, and write down what was tried and what came of it."""
    api = _client(path, url, scale)
    for number in numbers:
        say(f"try {number}")
        order = LIMIT if number % 3 else MARKET
        data = {**order, "cl_ord_id": f"{name}-{number}"}
        try:
            reply = api.query_private("AddOrder", data)
        except (requests.RequestException, ValueError) as error:
            told = [type(error).__name__]
        else:
            told = [reply["error"] or reply["result"]["txid"][0]]
        say(f"end {number} {json.dumps(told)}")


class Trader:
    """A row of orders, placed by a process; when that is killed, another goes on with the next order.

    Attributes:
        tried: the ids of the orders of which a call began.
        told: by id, what the process was told: a txid, a list of errors, or the name of an exception.
    """

    def __init__(
        self,
        children: Children,
        start: tuple[object, ...],
        account: Credentials,
        name: str,
        orders: int,
    ) -> None:
        self._children = children
        self._start = start
        self.account = account
        self._name = name
        self._orders = orders
        self._last = 0
        self.tried: list[str] = []
        self.told: dict[str, Any] = {}
        self._child = self._begin()

    @property
    def pid(self) -> int:
        """Its process, as it is now."""
        return self._child.pid

    def _begin(self) -> Child:
        child = self._children.call(
            place, *self._start, self._name, [*range(self._last + 1, self._orders + 1)]
        )
        child.tell(" ".join(self.account))
        return child

    def kill(self) -> None:
        """Kill its process, wherever that is, and let another go on with the order after the last one tried."""
        self._child.kill()
        self.read()
        self._child = self._begin()

    def read(self) -> None:
        """Read what its process has written, to the end."""
        while line := self._child.line():
            if line.startswith("\0"):
                continue
            event, number, *told = line.split(" ", 2)
            name = f"{self._name}-{number}"
            if event == "try":
                self._last = int(number)
                self.tried.append(name)
            else:
                (self.told[name],) = json.loads(told[0])

    def end(self) -> None:
        """Wait for the end of its last process, which ends well."""
        self.read()
        assert self._child.end() == 0


# --- other calls


def hold(path: str, url: str, scale: int, data: dict[str, str]) -> None:
    """Place one order, and be killed in it."""
    api = _client(path, url, scale)
    api.query_private("AddOrder", data)


def look(path: str, url: str, scale: int) -> list[list[Any]]:
    """Return the calls in doubt, as a program sees them that has made none."""
    return [list(doubt) for doubt in _client(path, url, scale).in_doubt()]


def crowd(
    path: str, url: str, scale: int, method: str, threads: int
) -> list[list[str]]:
    """Make a call on each of some threads; return the errors they were told."""
    api = _client(path, url, scale)
    with ThreadPoolExecutor(threads) as pool:
        data = {"txid": "none"} if method == "CancelOrder" else {}
        calls = [
            pool.submit(api.query_private, method, dict(data)) for _ in range(threads)
        ]
        return [call.result()["error"] for call in calls]


def reads(path: str, url: str, scale: int) -> None:
    """Ask for the balance whenever told to."""
    api = _client(path, url, scale)
    say("ready")
    while sys.stdin.readline():
        reply = api.query_private("Balance")
        say("done" if not reply["error"] else str(reply))


def stream(path: str, url: str, scale: int, method: str) -> int:
    """Make calls without end, until told to; return how many."""
    api = _client(path, url, scale)
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    calls = 0
    say("ready")
    while not ended.is_set() and calls < _ENDLESS:
        data = {"txid": "none"} if method == "CancelOrder" else dict(LIMIT)
        api.query_private(method, data)
        calls += 1
    ended.wait()
    return calls
