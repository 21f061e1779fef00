#!/usr/bin/env python3
"""Wear the library out for as long as asked, with real processes and kills, and check all that happened.

    scripts/soak.py --minutes 30              the storm: all of it at once
    scripts/soak.py nonces --seconds 60
    scripts/soak.py krakenex --seconds 60

Exits with 1 if a guarantee was broken. Each soak is a function in SOAKS; what it prints are figures of this machine
under this load, no promise.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _soak_storm import exchange, storm

from persistent_nonce import crew
from persistent_nonce.bots import Job
from persistent_nonce.commands.facts import in_doubt
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import fingerprint
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.testing import KrakenSimulator
from tests.support.checker import Log, read_logs, violations

_KEY: Final = "the key of the soak"


class Crew:
    """Processes that do the same work, each started anew when it is killed.

    They are forked from this process, which has imported everything and opened nothing.

    Args:
        work: called in each process with a number of its own, never twice the same; it is not to return.
        size: how many there are at a time.
    """

    def __init__(self, work: Callable[[int], None], size: int) -> None:
        self._work = work
        self._started = 0
        self._pids: list[int] = []
        for _ in range(size):
            self._start()

    def _start(self) -> None:
        self._started += 1
        pid = os.fork()
        if pid:
            self._pids.append(pid)
            return
        try:
            self._work(self._started)
        except BaseException as error:  # noqa: BLE001 - a child of ours must not go on as its parent
            print(f"a process failed: {error!r}", flush=True)
        finally:
            os._exit(70)

    def replace_one(self) -> None:
        """Kill one by SIGKILL, at random, and start another.

        Raises:
            ChildProcessError: it had ended before, by an error.
        """
        pid = self._pids.pop(random.randrange(len(self._pids)))  # noqa: S311 - no secret
        self._kill(pid)
        self._start()

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            raise ChildProcessError(f"process {pid} had ended with status {status}")

    def end(self) -> None:
        """Kill all."""
        while self._pids:
            self._kill(self._pids.pop())


def nonces(options: argparse.Namespace, directory: Path) -> bool:
    """Draw nonces in 6 processes, one of them killed and started anew every 0.2 s; check them all (I1, I2, I3)."""
    path = directory / "nonces.db"

    def work(number: int) -> None:
        log = Log(directory / f"{number}.log")
        provider = NonceProvider(SQLiteStore(path), _KEY, unit="ns")
        while True:
            log.draw(provider, 1_000)

    begin, kills = time.monotonic(), 0
    crew = Crew(work, 6)
    try:
        while time.monotonic() < begin + options.seconds:
            time.sleep(0.2)
            crew.replace_one()
            kills += 1
    finally:
        crew.end()
    lasted = time.monotonic() - begin
    history = read_logs(directory)
    found = violations(history)
    for violation in found:
        print(violation)
    with SQLiteStore(path) as store:  # the next process goes on
        provider = NonceProvider(store, _KEY)
        works = not history or provider.next() > max(history)[2]
    connection = sqlite3.connect(path)
    intact = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    rate = len(history) / lasted
    print(
        f"{len(history):,} nonces by 6 processes in {lasted:.1f} s ({rate:,.0f} a second), {kills} kills, "
        f"{len(found)} violation{'' if len(found) == 1 else 's'}, integrity {'ok' if intact else 'BROKEN'}"
    )
    if rate < options.least:
        print(f"that is less than the {options.least:,} a second asked for")
    return not found and works and intact and rate >= options.least


def krakenex(options: argparse.Namespace, directory: Path) -> bool:
    """Trade with 4 krakenex bots on 2 keys of the simulated exchange in real time, one killed in mid-call (I3, I5)."""
    calls = max(10, round(options.seconds))  # of each bot with each key
    begin = time.monotonic()
    with (
        KrakenSimulator(tier="pro") as exchange,
        SQLiteStore(directory / "nonces.db", clock=exchange.clock) as store,
    ):
        keys = [exchange.add_key(), exchange.add_key()]
        job = Job(url=exchange.url, keys=keys, calls=[calls] * len(keys), scale=1)
        with crew.Crew(
            exchange, job, count=4, directory=directory, store=store
        ) as bots:
            ended = bots.work(
                lambda _: None,
                patience=60 + 10 * calls,
                kill_after=2 * calls,
            )
            replies = bots.replies()
        lasted = time.monotonic() - begin
        errors = sum(1 for done in replies if done.reply["error"])
        good = ended and not errors and len(replies) == 4 * sum(job.calls)
        for place, (key, _) in enumerate(keys):
            arrivals = bots.arrivals(place)
            nonces = [arrival.nonce or 0 for arrival in arrivals]
            gaps = [b.at - a.at for a, b in itertools.pairwise(arrivals)]
            refused = sum(1 for arrival in arrivals if arrival.verdict != "accepted")
            ordered = nonces == sorted(set(nonces))
            doubtful = sum(
                1 for c in store.calls(fingerprint(key), 10**6) if in_doubt(c)
            )
            good = good and not refused and ordered and doubtful <= 1
            print(
                f"key {place + 1}: {len(arrivals):,} calls arrived, {refused} refused, "
                f"{'in order' if ordered else 'OUT OF ORDER'}, at least {min(gaps) / 1e6:.0f} ms apart, "
                f"{doubtful} in doubt"
            )
    print(
        f"{len(replies):,} replies in {lasted:.1f} s, {errors} errors, one bot killed"
    )
    return good


#: Each soak by its name: it is given the options and an empty directory, and returns whether all held.
SOAKS: Final[dict[str, Callable[[argparse.Namespace, Path], bool]]] = {
    "nonces": nonces,
    "krakenex": krakenex,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="how long the storm lasts"
    )
    _common(parser)
    soaks = parser.add_subparsers(dest="soak")
    for name, soak in SOAKS.items():
        description = (soak.__doc__ or "").partition("\n")[0]
        one = soaks.add_parser(name, help=description, description=description)
        one.add_argument("--seconds", type=float, default=60.0, help="how long")
        one.add_argument(
            "--least", type=int, default=10_000, help="nonces a second, or it fails"
        )
        _common(one)
    soaks.add_parser("exchange")  # of the storm, which starts it
    return parser.parse_args()


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--directory", type=Path, help="where; a temporary one")
    parser.add_argument("--seed", type=int, help="of what is random here")


def main() -> int:
    """Run the soak that was asked for."""
    options = _options()
    if options.soak == "exchange":
        exchange()
        return 0
    random.seed(options.seed)
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="soak-") as made:
        soak = SOAKS[options.soak] if options.soak else storm
        good = soak(options, options.directory or Path(made))
    print("all held" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
