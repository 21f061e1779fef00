"""Power cuts, one after the other, of writers on one disk: stop, cut, kill, mount again, recover, compare (I4).

The writers are stopped before the cut and given a moment, so that no flush is under way: the shutdown would let it
return as if done. What they logged outside of the disk was promised; nothing that follows may lie at or below it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.checker import read_logs, violations
from tests.support.power_disk import Disk, die_with_parent
from tests.support.power_programs import MARKS, Found, Job, Program
from tests.support.workers import Shifted

__all__ = ["Figures", "Plan", "Trial"]

#: Seconds between the stop of the writers and the cut; a flush takes a few milliseconds.
_SETTLE: Final = 0.015

#: Seconds within which a writer gets to work: a guard, many times what a slow machine needs.
_GUARD: Final = 60.0

#: The share of new databases that may be cut before anything was promised.
_EARLY: Final = 0.25

#: Seconds by which the clock is wrong after a reboot, one of them.
_STEPS: Final = (0.0, -3_600.0, -3_600.0, 600.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the writers are treated.

    Attributes:
        writers: how many processes write at a time.
        least, most: seconds they run before a kill or the cut, after the first promise.
        kills: writers killed, and replaced, before the cut.
        recoveries: recoveries that are broken off, by SIGKILL or by another cut, before the one that counts.
        anew: a new directory, and so a new database, for each cut; which may come before the first promise.
    """

    writers: int = 4
    least: float = 0.03
    most: float = 0.25
    kills: int = 0
    recoveries: int = 0
    anew: bool = False


@dataclass(slots=True)
class Figures:
    """What was seen over all cuts."""

    count: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {what}" for what, number in self.count.items())


class Trial:
    """The power cuts of one program on one disk.

    To be used in a process with one thread and without an open store: it forks. `scratch` lies outside of the disk.
    """

    def __init__(
        self, program: Program, plan: Plan, disk: Disk, scratch: Path, *, seed: int
    ) -> None:
        self.figures = Figures()
        self._program = program
        self._plan = plan
        self._disk = disk
        self._scratch = scratch
        scratch.mkdir()
        # What every process would do for itself takes longer than a short run.
        importlib.import_module("sqlite_utils.migrations")
        logging.getLogger("persistent_nonce").setLevel(logging.CRITICAL)
        self._chance = random.Random(seed)
        self._boots = 0
        self._started = 0
        self._greatest: dict[str, int] = {}
        self._directory = Path()
        self._logs = Path()
        self._reboot()

    def cut(self) -> None:
        """Run the writers, cut their power, and compare what was promised with what follows."""
        self._prepare()
        pids = [self._start() for _ in range(self._plan.writers)]
        try:
            for _ in range(self._plan.kills):
                self._run_on()
                self._kill(pids.pop(self._chance.randrange(len(pids))))
                pids.append(self._start())
            self._run_on()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            self._cut_power()
        finally:
            while pids:
                self._kill(pids.pop())
        self._disk.restart()
        self._reboot()
        for _ in range(self._plan.recoveries):
            self._break_off()
        self._judge()

    # --- before the cut

    def _prepare(self) -> None:
        cuts = self.figures.count["cuts"]
        self.figures.count["cuts"] += 1
        self._logs = self._scratch / f"logs-{cuts}"
        self._logs.mkdir()
        if self._plan.anew or not cuts:
            self._greatest = {}
            self._directory = self._disk.root / f"state-{cuts}"
            self._directory.mkdir(mode=0o700)
            # The directory is the user's to keep; what follows in it is the program's.
            for directory in (self._directory, self._disk.root):
                descriptor = os.open(directory, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def _run_on(self) -> None:
        """Let the writers work until after their first promise; a new database may also be cut while it is made."""
        early = self._plan.anew and self._chance.random() < _EARLY
        deadline = time.monotonic() + _GUARD
        while not (early or self._keys()):
            if time.monotonic() > deadline:
                raise TimeoutError("the writers promised nothing within the guard")
            time.sleep(0.005)
        time.sleep(self._chance.uniform(self._plan.least, self._plan.most))

    def _start(self) -> int:
        writers = self._program.writers
        writer = writers[self._started % len(writers)]
        return self._fork(writer)

    def _fork(self, work: Callable[[Job], None]) -> int:
        self._started += 1
        job = Job(self._directory, self._clock, self._logs, self._started)
        pid = os.fork()
        if pid:
            return pid
        try:
            die_with_parent()
            work(job)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child of ours must not go on as its parent
            (self._logs / f"{self._started}.error").write_text(f"{error!r}")
        finally:
            os._exit(70)

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _cut_power(self) -> None:
        time.sleep(_SETTLE)
        self._disk.cut()

    def _reboot(self) -> None:
        self._boots += 1
        ahead = self._chance.choice(_STEPS) if self._boots > 1 else 0.0
        self._clock = Shifted(ahead, f"boot {self._boots}")

    # --- after it

    def _keys(self) -> list[str]:
        """Return the keys of which something was promised since the last cut."""
        logs = self._logs.glob("*/*.log")
        promised = {path.parent.name for path in logs if path.stat().st_size}
        return sorted({name.removesuffix(MARKS) for name in promised})

    def _break_off(self) -> None:
        """Begin to recover, and break that off at any moment, by a kill or by another cut."""
        keys = self._keys()
        pid = self._fork(lambda job: self._recover(job, keys))
        time.sleep(self._chance.uniform(0.0, 0.03))
        if self._chance.random() < 0.5:
            self._kill(pid)
            self.figures.count["recoveries killed"] += 1
            return
        os.kill(pid, signal.SIGSTOP)
        self._cut_power()
        self._kill(pid)
        self._disk.restart()
        self._reboot()
        self.figures.count["recoveries cut"] += 1

    def _recover(self, job: Job, keys: list[str]) -> None:
        found = self._program.recover(job, keys)
        intact = True
        if self._program.database:
            connection = sqlite3.connect(job.directory / self._program.database)
            answer = connection.execute("PRAGMA integrity_check").fetchall()
            connection.close()
            intact = answer == [("ok",)]
        path = self._scratch / "found.json"
        path.write_text(json.dumps([found, intact]))

    def _judge(self) -> None:
        count, greatest = self.figures.count, self._greatest
        keys = self._keys()
        for key in keys:
            issued = read_logs(self._logs / key)
            count["promises"] += len(issued)
            self._break(violations(issued))
            marks = read_logs(self._logs / (key + MARKS))
            count["marks promised"] += len(marks)
            values = [operation.value for operation in issued]
            former = greatest.get(key, 0)
            if values and min(values) <= former:
                self._break([f"{key}: {min(values)} was issued after {former}"])
            values += [operation.value for operation in marks]
            greatest[key] = max([former, *values])
        path = self._scratch / "found.json"
        path.unlink(missing_ok=True)
        _, status = os.waitpid(self._fork(lambda job: self._recover(job, keys)), 0)
        for error in self._logs.glob("*.error"):
            self._break([error.read_text()])
        if status or not path.exists():
            self._break(["nothing could be recovered"])
            return
        found, intact = json.loads(path.read_text())
        count["corrupt"] += not intact
        self._compare({key: Found(*found[key]) for key in keys})

    def _compare(self, found: dict[str, Found]) -> None:
        count, greatest = self.figures.count, self._greatest
        behind = lost = False
        for key, now in found.items():
            behind = behind or now.stored < greatest[key]
            count["keys refused"] += now.refused
            if now.above < greatest[key]:
                lost = True
                self._break([f"{key}: {greatest[key]} was promised, then {now}"])
            greatest[key] = max(greatest[key], now.taken)
        count["cuts that took commits"] += behind
        count["cuts that LOST"] += lost
        count["cuts before the first promise"] += not found

    def _break(self, found: list[str]) -> None:
        cuts = self.figures.count["cuts"]
        self.figures.broken += [f"cut {cuts}: {violation}" for violation in found]
