"""Trading bots, each a process of its own that calls a local exchange through krakenex.

`Bot` starts one and follows it; `python -m persistent_nonce.bots` is the bot itself. What it is to do, the secrets
in it, comes through its standard input: arguments are in the list of processes, for everyone to see (I11).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Bot", "Job"]

#: Real seconds a bot waits for a reply, and the seconds of its clock that it waits for its turn.
_TIMEOUT: Final = 5.0
_PATIENCE: Final = 3600.0

#: Real seconds that starting a bot may take.
_START: Final = 60.0

_LIMIT: Final = {
    "ordertype": "limit",
    "type": "buy",
    "volume": "0.01",
    "pair": "XBTUSD",
    "price": "37500",
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a bot is to do.

    Attributes:
        url: of the exchange.
        keys: API keys and their secrets; the bot works with all of them at once, each on a thread.
        calls: how many for each key.
        scale: how many times as fast as the machine's the exchange's clock runs.
        beat: real seconds between the moments at which it acts, the same ones for all bots of the machine, as if at
            the close of each candle; 0 is at once.
        tier: of the keys.
        db: the database of this library; None is plain krakenex.
    """

    url: str
    keys: Sequence[tuple[str, str]]
    calls: int
    scale: int
    beat: float = 0.0
    tier: str = "pro"
    db: str | None = None


class Bot:
    """A bot, seen from the process that started it.

    Args:
        job: what it is to do.
        log: the file into which it writes its replies.
    """

    def __init__(self, job: Job, log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "persistent_nonce.bots"],
                stdin=subprocess.PIPE,
                stdout=out,
                start_new_session=True,  # Ctrl-C is for whoever started it, who ends it
            )
        self._say(json.dumps(asdict(job)))

    def _say(self, line: str) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def begin(self) -> None:
        """Wait until it is ready, and let it begin."""
        deadline = time.monotonic() + _START
        while not self._log.stat().st_size:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"bot {self.process.pid} did not start")
            time.sleep(0.005)
        self._say("begin")

    def replies(self) -> list[tuple[str, str, Any]]:
        """Return key, method and reply of each call that it has made, in order."""
        lines = self._log.read_bytes().split(b"\n")[1:-1]  # without one half written
        return [tuple(json.loads(line)) for line in lines]

    def end(self) -> None:
        """Kill it if it lives still, and collect it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _plan(calls: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the calls of a bot: it places orders and cancels them, and now and then looks at its account."""
    reading = ("Balance", "OpenOrders", "GetApiKeyInfo", "TradesHistory")
    for number in range(calls):
        order, step = divmod(number, 5)
        name = {"cl_ord_id": f"{os.getpid()}-{number - step % 2}"}
        if step == 4:  # noqa: PLR2004 - the last of five
            yield reading[order % len(reading)], {}
        elif step % 2:
            yield "CancelOrder", name
        else:
            yield "AddOrder", {**_LIMIT, **name}


def _client(job: Job, key: str, secret: str, store: Any) -> Any:
    """Return a client of one key: the two lines in which the two kinds of bots differ."""
    if store is None:
        import krakenex  # noqa: PLC0415 - the other bots never need it

        client = krakenex.API(key, secret)
    else:
        from persistent_nonce.adapters.krakenex import API  # noqa: PLC0415 - likewise

        client = API(
            key,
            secret,
            store=store,
            tier=job.tier,
            timeout=_TIMEOUT,
            gate_timeout=_PATIENCE,
        )
    client.uri = job.url
    return client


def _trade(job: Job, client: Any) -> None:
    for method, data in _plan(job.calls):
        if job.beat:
            time.sleep(job.beat - time.monotonic() % job.beat)
        reply = client.query_private(method, data)
        sys.stdout.write(json.dumps([client.key, method, reply]) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Be a bot: read the job, say that all is ready, wait for the word, trade."""
    read = json.loads(sys.stdin.readline())
    job = Job(**read)
    store = None
    if job.db is not None:
        from persistent_nonce import SQLiteStore  # noqa: PLC0415 - plain bots do without
        from persistent_nonce.testing import ScaledClock  # noqa: PLC0415 - likewise

        store = SQLiteStore(job.db, clock=ScaledClock(job.scale), timeout=60.0)
    clients = [_client(job, key, secret, store) for key, secret in job.keys]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if sys.stdin.readline() != "begin\n":
        return  # whoever started it is gone
    threads = [threading.Thread(target=_trade, args=(job, c)) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
