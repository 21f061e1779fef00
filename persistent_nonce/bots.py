"""A trading bot in a process of its own, which calls an exchange through krakenex.

`python -m persistent_nonce.bots` is the bot, `Bot` is how another process starts one and follows it. What it is to
do, secrets included, comes in through its standard input: everybody sees the arguments of a process (I11).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from persistent_nonce.errors import NonceError
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.testing import ScaledClock

__all__ = ["Bot", "Job", "Reply"]

#: Seconds that a bot waits for a reply, real ones, and for its turn, those of its clock.
_TIMEOUT: Final = 5.0
_GATE_TIMEOUT: Final = 3600.0

#: Real seconds that the start of a bot may take.
_START: Final = 60.0

_LIMIT: Final = {
    "ordertype": "limit",
    "type": "buy",
    "volume": "0.01",
    "pair": "XBTUSD",
    "price": "37500",
}

_READING: Final = ("Balance", "OpenOrders", "ClosedOrders", "TradesHistory")


@dataclass(frozen=True, slots=True)
class Job:
    """What a bot is to do.

    Attributes:
        url: of the exchange.
        keys: API keys with their secrets; the bot works with all of them at once, each on a thread.
        calls: how many with each key.
        scale: how many times as fast as the machine's the exchange's clock runs.
        beat: real seconds between the moments at which it acts, which are the same for all bots, as the closing of
            a candle would be; 0 is as soon as it can.
        tier: of the keys.
        db: the database of this library; None is plain krakenex.
    """

    url: str
    keys: Sequence[tuple[str, str]]
    calls: Sequence[int]
    scale: int
    beat: float = 0.0
    tier: str = "pro"
    db: str | None = None


class Reply(NamedTuple):
    """A call that a bot has made, with krakenex's reply."""

    place: int  # of the key in the job
    method: str
    reply: Any


class Bot:
    """A bot as seen from the process that starts it.

    Args:
        job: what it is to do.
        log: the file into which it writes the replies.
    """

    def __init__(self, job: Job, log: Path) -> None:
        self.job: Final = job
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "persistent_nonce.bots"],
                stdin=subprocess.PIPE,
                stdout=out,
                start_new_session=True,  # Ctrl-C is for the one who started it, who ends it
            )
        self._say(json.dumps(asdict(job)))

    @property
    def lives(self) -> bool:
        """Whether it has not come to its end."""
        return self.process.poll() is None

    def _say(self, line: str) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def await_ready(self) -> None:
        """Wait until it could begin."""
        deadline = time.monotonic() + _START
        while not self._log.stat().st_size:
            if not self.lives or time.monotonic() > deadline:
                raise NonceError(f"bot {self.process.pid} did not start")
            time.sleep(0.005)

    def begin(self) -> None:
        """Let it begin."""
        self._say("begin")

    def replies(self) -> list[Reply]:
        """Return what it was answered so far, in order."""
        lines = self._log.read_bytes().split(b"\n")
        return [Reply(*json.loads(line)) for line in lines[1:-1]]

    def rest(self) -> Job:
        """Return the job of one that takes its place: the calls that were not answered."""
        left = list(self.job.calls)
        for reply in self.replies():
            left[reply.place] -= 1
        return Job(**{**asdict(self.job), "calls": left})

    def end(self) -> None:
        """Kill it, unless it has come to its end."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


# --- in the bot's own process ---------------------------------------------------------


def _plan(calls: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the bot's calls: orders placed and cancelled again, and now and then a look at the account."""
    for number in range(calls):
        turn, step = divmod(number, 5)
        name = {"cl_ord_id": f"{os.getpid()}-{number - step % 2}"}
        if step == len(_READING):
            yield _READING[turn % len(_READING)], {}
        elif step % 2:
            yield "CancelOrder", name
        else:
            yield "AddOrder", {**_LIMIT, **name}


def _clients(job: Job) -> list[Any]:
    """Return a client for each key: all in which the two kinds of bots differ."""
    if job.db is None:
        import krakenex  # noqa: PLC0415 - slow to load, and only bots need it

        clients = [krakenex.API(*key) for key in job.keys]  # type: ignore[no-untyped-call]  # it has no annotations
    else:
        from persistent_nonce.adapters.krakenex import API  # noqa: PLC0415 - slow to load, and only bots need it

        store = SQLiteStore(job.db, clock=ScaledClock(job.scale))
        clients = [
            API(
                *key,
                store=store,
                tier=job.tier,
                timeout=_TIMEOUT,
                gate_timeout=_GATE_TIMEOUT,
            )
            for key in job.keys
        ]
    for client in clients:
        client.uri = job.url
    return clients


def _trade(job: Job, place: int, client: Any) -> None:
    for method, data in _plan(job.calls[place]):
        if job.beat:
            time.sleep(job.beat - time.monotonic() % job.beat)
        _tell(Reply(place, method, client.query_private(method, data)))


def _tell(what: object) -> None:
    line = json.dumps(what).encode() + b"\n"
    os.write(1, line)  # in one piece, whatever others write


def main() -> None:
    """Read the job, say that all is ready, wait for the word, trade."""
    line = sys.stdin.readline()
    if not line:
        return  # whoever started it is gone
    job = Job(**json.loads(line))
    clients = _clients(job)
    _tell("ready")
    if sys.stdin.readline() != "begin\n":
        return  # whoever started it is gone
    with ThreadPoolExecutor(len(clients)) as threads:
        trades = [threads.submit(_trade, job, *each) for each in enumerate(clients)]
    for trade in trades:
        trade.result()


if __name__ == "__main__":
    main()
