"""The storm: processes of every kind on one store and one exchange, and all that can befall them, for minutes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from _soak_crew import KINDS, Crew, hold_court, survive
from _soak_scene import KEY, SCALE, Board, Scene

from persistent_nonce.clock import SECOND
from persistent_nonce.provider import NonceProvider
from persistent_nonce.testing import KrakenSimulator
from tests.support.checker import read_logs, violations

__all__ = ["exchange", "storm"]

#: Seconds of a round, after which all are killed and the logs are checked.
_ROUND: Final = 15.0

#: Seconds between two afflictions, and between two steps of the clock; the clock's steps reach so far.
_PAUSE: Final = 0.08
_STEP_EVERY: Final = 3.0
_STEP: Final = 3600.0

#: Seconds of a round after which its disk is full, and those after which there is room again.
_FULL: Final = (2.0, 3.0)

#: The largest `-wal` that is in order once nobody is stopped in the middle of a look, which holds up its writing back:
#: it is written back at 3 MiB, and cut to 4.
_WAL: Final = 4 << 20


class Storm:
    """A storm and what is found out in it.

    Args:
        scene: where it rages.
    """

    def __init__(self, scene: Scene) -> None:
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.replies: set[int] = set()
        self.largest_wal = 0
        self.settled_wal = 0
        self.slowest = 0.0
        self.first: tuple[int, int] | None = None
        self.last = (0, 0)
        self.no_disk = scene.mount()
        self._scene = scene
        self._greatest: Counter[str] = Counter()

    def rage(self, seconds: float) -> None:
        """Go on for that long, in rounds."""
        board, end, rounds = self._scene.board, time.monotonic() + seconds, 0
        survivor = hold_court(lambda: survive(self._scene))
        try:
            while time.monotonic() < end:
                rounds += 1
                board["round"] = rounds
                self._round(min(end, time.monotonic() + _ROUND))
                # A round may be over before the survivor has come so far as to see it.
                for number, what in ((rounds, "begun"), (0, "rested")):
                    board["round"] = number
                    while board[what] < rounds:
                        if os.waitpid(survivor, os.WNOHANG)[0]:
                            self.wrong.append("the survivor has ended")
                            return
                        time.sleep(0.01)
                self._check()
                self.last = (board["descriptors"], board["memory"])
                self.first = self.first or self.last
        finally:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(survivor, signal.SIGKILL)
                os.waitpid(survivor, 0)

    def _round(self, end: float) -> None:
        """Let a fresh crew work and suffer until `end`; then kill all of it."""
        crew = Crew(self._scene, self.counts)
        step, full = 0.0, [time.monotonic() + seconds for seconds in _FULL]
        try:
            while (now := time.monotonic()) < end:
                time.sleep(_PAUSE)
                crew.afflict()
                if not self.no_disk and full and now > full[0]:
                    full.pop(0)
                    (self._scene.fill if full else self._scene.free)()
                    self.counts["filled"] += bool(full)
                if now > step:
                    step = now + _STEP_EVERY
                    self.counts["steps"] += 1
                    ahead = random.uniform(-_STEP, _STEP)  # noqa: S311 - no secret
                    self._scene.board["offset"] = round(ahead * SECOND)
                with suppress(FileNotFoundError):
                    wal = os.stat(f"{self._scene.database}-wal").st_size
                    self.largest_wal = max(self.largest_wal, wal)
        finally:
            self._scene.free()
            crew.end()

    def _check(self) -> None:
        """Check what was logged in a round, and what is left."""
        logs = self._scene.logs
        for kind in ("nonces", "calls"):
            history = read_logs(logs / kind)
            self.wrong += violations(history)
            if history:
                low, high = min(o.value for o in history), max(o.value for o in history)
                if low <= self._greatest[kind]:
                    self.wrong.append(f"{kind}: {low} after {self._greatest[kind]}")
                self._greatest[kind] = high
            self.counts[kind] += len(history)
        for operation in read_logs(logs / "trades"):
            self.replies.add(operation.value)
        shutil.rmtree(logs)
        begin = time.monotonic()
        with self._scene.store() as store:
            provider = NonceProvider(store, KEY)
            first = provider.next()
            self.slowest = max(self.slowest, time.monotonic() - begin)
            provider.next()  # the log was written back; now it begins anew
            wal = os.stat(f"{self._scene.database}-wal").st_size
            self.settled_wal = max(self.settled_wal, wal)
            if first <= self._greatest["nonces"]:
                self.wrong.append(f"after the storm: {first}")
            self._greatest["nonces"] = provider.next()
        for path in (self._scene.database, self._scene.trades):
            with closing(sqlite3.connect(path)) as connection:
                found = connection.execute("PRAGMA integrity_check").fetchall()
            self.counts["integrity checks"] += 1
            if found != [("ok",)]:
                self.wrong.append(f"{path}: {found}")


def exchange() -> None:
    """Be the exchange, in a process of its own: say how to reach it; when told, say what arrived; end."""
    with KrakenSimulator(
        tier="pro", time_scale=SCALE, lockout_after=1_000
    ) as simulator:
        account = simulator.add_key()
        print(json.dumps([simulator.url, *account]), flush=True)
        sys.stdin.readline()
        arrivals = simulator.stats(account.key).arrivals
        print(
            json.dumps([[a.nonce, a.verdict, a.completed] for a in arrivals]),
            flush=True,
        )


def storm(options: argparse.Namespace, directory: Path) -> bool:
    """Kill, stop, end and interrupt processes, threads and tasks that draw, call and trade, and step their clock.

    What must hold: each nonce is new and greater than all before it (I1, I2), one call is in flight (I5), the exchange
    refuses nobody who lives, the databases stay sound, and a process that is spared does not grow (I3, I10).
    """
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "exchange"]
    begin = time.monotonic()
    logging.disable()  # each death is logged by whoever finds it
    with subprocess.Popen(  # noqa: S603 - this very script
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as simulator:
        assert simulator.stdout is not None  # noqa: S101 - it is a pipe
        url, *account = json.loads(simulator.stdout.readline())
        scene = Scene(directory, Board(), url, tuple(account))
        weather = Storm(scene)
        try:
            weather.rage(60 * options.minutes)
        finally:
            arrivals = json.loads(simulator.communicate("end\n")[0])
            if not weather.no_disk:
                scene.unmount()
    return report(weather, scene.board, arrivals, time.monotonic() - begin)


def report(weather: Storm, board: Board, arrivals: list[Any], lasted: float) -> bool:
    """Print the figures, and return whether all held."""
    counts, wrong = weather.counts, weather.wrong
    lost = [
        a
        for a in arrivals
        if a[0] not in weather.replies and -a[0] not in weather.replies
    ]
    refused = [a for a in arrivals if -a[0] in weather.replies]
    if refused:
        wrong.append(f"the exchange refused calls of living clients: {refused[:5]}")
    if board["overlaps"]:
        wrong.append(f"two calls in flight: {board['overlaps']} times")
    if counts["failed"]:
        wrong.append(f"{counts['failed']} processes had ended by themselves")
    if weather.settled_wal > _WAL:
        wrong.append(f"the -wal stayed at {weather.settled_wal:,} bytes")
    (files, memory), (files_then, memory_then) = weather.first or (0, 0), weather.last
    if files_then > files or memory_then > memory * 1.5:
        wrong.append("the spared process has grown")
    filled = f"NOT RUN: {weather.no_disk}"
    if not weather.no_disk:
        filled = f"{counts['filled']:,} times for a second; {board['full']:,} attempts were told so"
    nonces = counts["nonces"] + counts["calls"] + len(weather.replies)
    for what in wrong[:20]:
        print(what)
    print(
        f"storm       {lasted / 60:.1f} minutes; {len(KINDS)} processes at a time, {counts['started']:,} in all, "
        "and one that was spared\n"
        f"nonces      {nonces:,} ({nonces / lasted:,.0f} a second): {counts['nonces']:,} drawn, "
        f"{counts['calls']:,} of calls through a gate, {len(weather.replies):,} of calls answered by the exchange\n"
        f"kills       {counts['killed']:,} by SIGKILL, {counts['terminated']:,} by SIGTERM"
        f" ({counts['unheard']} more did not hear it, and were killed)\n"
        f"stops       {counts['stopped']:,} (SIGSTOP, up to 1 s later SIGCONT)\n"
        f"interrupts  {board['interrupts']:,} (KeyboardInterrupt at a random moment of a draw or a call)\n"
        f"clock       {counts['steps']:,} steps, up to an hour ahead or behind\n"
        f"disk full   {filled}\n"
        f"exchange    {len(arrivals):,} requests arrived, {len(lost):,} of them by killed clients, "
        f"{len(refused)} others refused\n"
        f"violations  {len(wrong)} of any kind; two in flight {board['overlaps']} times\n"
        f"integrity   {counts['integrity checks']} checks; the slowest first nonce after all were killed: "
        f"{1000 * weather.slowest:.0f} ms\n"
        f"-wal        {weather.largest_wal / 1024**2:.2f} MiB at most, with readers stopped; "
        f"{weather.settled_wal / 1024**2:.2f} MiB at most after a round\n"
        f"spared      descriptors {files} at first, {files_then} at last; "
        f"memory {memory / 1024**2:.1f} MiB at first, {memory_then / 1024**2:.1f} MiB at last"
    )
    return not wrong
