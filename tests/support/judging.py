"""The judge of what a killed process left: the next process, which goes on without help."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

from persistent_nonce import CallGate, GateTimeoutError, NonceProvider, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.state import KeyState, fingerprint
from persistent_nonce.stores import rows
from tests.support.doomed_works import BEGIN, WORKS, Still, Tell, Victim
from tests.support.killing import GUARD, forked
from tests.support.workers import KEY

__all__ = ["Trials"]


class Judge:
    """The process that goes on after those that were killed.

    Args:
        path: the database.
        clock: an hour behind theirs, so that no nonce is new because of it.
        deaths: what each of them told.
        greatest: the greatest nonce that was issued before.
    """

    def __init__(
        self, path: Path, clock: Still, deaths: list[list[str]], greatest: int
    ) -> None:
        self._path = path
        self._clock = clock
        self._deaths = deaths
        self._greatest = greatest
        self._wrong: list[str] = []

    def _demand(self, held: bool, what: str) -> None:
        if not held:
            self._wrong.append(what)

    def judge(self, tell: Tell) -> None:
        """Look at what was left, go on, and tell what is wrong and the latest nonce."""
        self._lock_is_free()
        before = self._state()
        self._ceiling_is_proven(before)
        with SQLiteStore(self._path, clock=self._clock, timeout=GUARD) as store:
            gate = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
            if before.not_before > before.set_at:
                # The back-off of a refused nonce, also of one that was healed, is never over by a clock that stands;
                # by one that was set back it begins anew with the first look.
                with suppress(GateTimeoutError), gate.call("Balance", timeout=0.0):
                    pass
                self._clock.forward(before.not_before - before.set_at)
            with gate.call("Balance") as call:
                self._demand(call.nonce > self._greatest, "the call has an old nonce")
                self._demand(call.nonce > before.nonce, "the call's nonce was logged")
            last = NonceProvider(store, KEY).next()
            self._demand(last > call.nonce, "the next nonce is no greater")
            after = store.read(gate.key)
            self._demand(not after.queue and after.running is None, "a call is left")
            outcomes = {one.nonce: one.outcome for one in store.calls(limit=50)}
        if before.running is not None:
            outcome = outcomes.get(before.running.nonce)
            self._demand(
                outcome == "interrupted",
                f"the call in flight is on record as {outcome}",
            )
        for lines in self._deaths:
            self._call_is_on_record(lines, outcomes)
        with closing(sqlite3.connect(self._path)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        self._demand(found == [("ok",)], f"integrity: {found}")
        for what in self._wrong:
            tell(f"wrong {what}")
        tell(f"last {last}")

    def _lock_is_free(self) -> None:
        if not os.path.exists(f"{self._path}.lock"):
            return
        descriptor = os.open(f"{self._path}.lock", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._demand(False, "the lock is held")
        os.close(descriptor)

    def _state(self) -> KeyState:
        """Return the state as it was left, from a copy; a new one of a database that was not finished."""
        nothing = KeyState(fingerprint(KEY))
        copy = self._path.with_name("copy.db")
        for suffix in ("", "-wal", "-shm"):
            copy.with_name(f"copy.db{suffix}").unlink(missing_ok=True)
        for suffix in ("", "-wal"):
            source = self._path.with_name(self._path.name + suffix)
            if source.exists():
                shutil.copyfile(source, copy.with_name(f"copy.db{suffix}"))
        with closing(sqlite3.connect(copy)) as connection:
            try:
                found = connection.execute(rows.select_row, (nothing.key,)).fetchall()
            except sqlite3.OperationalError:  # there is no such table yet
                return nothing
        return rows.decode(found[0]) if found else nothing

    def _ceiling_is_proven(self, before: KeyState) -> None:
        """Demand that `synced` has gone up only together with a nonce, in the commit that follows its fsync (I4)."""
        told = dict(line.split(maxsplit=1) for line in self._deaths[-1] if " " in line)
        if "mark" not in told:
            return
        mark = int(told["mark"])
        self._demand(
            before.nonce > mark or before.synced <= mark,
            f"{before.synced} is trusted before its fsync was known to have returned",
        )

    def _call_is_on_record(self, lines: list[str], outcomes: Mapping[int, str]) -> None:
        """Demand that a call whose body was reached is known, and how it ended."""
        told = dict(line.split(maxsplit=1) for line in lines if " " in line)
        if "body" not in told:
            return
        ends = {"interrupted"}
        if "leaving" in told:
            ends = {"ok", "invalid_nonce"}
            if not {"left", "refused"} & set(lines):
                ends.add("interrupted")
        outcome = outcomes.get(int(told["body"]), "nothing")
        self._demand(outcome in ends, f"the call it was in is on record as {outcome}")


class Trials:
    """Victims of one work, one after the other in what the earlier ones left, with a judge after each.

    Args:
        name: of one of WORKS.
        directory: where the databases are made.

    Attributes:
        work: what they do.
        wrong: what the judges found.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.work = WORKS[name]
        self.wrong: list[str] = []
        self._name = name
        self._directory = directory
        self._path = directory / "nonces.db"
        self._round = 0
        self._greatest = 0

    def victim(self, doom: AbstractContextManager[None], tell: Tell) -> Victim:
        """Return what the next victim works with."""
        return Victim(self._path, self._round, doom, tell)

    def judge(self, point: str, deaths: list[list[str]]) -> None:
        """Have a process go on after victims that told the lines `deaths`, and note what is wrong."""
        self._note(line for lines in deaths for line in lines)
        boot = f"boot {self._round}" if self._name == "waking" else ""
        clock = Still(BEGIN - 3600 * SECOND, boot)
        said, broken = forked(Judge(self._path, clock, deaths, self._greatest).judge)
        for line in said:
            if line.startswith(("wrong ", "error")):
                self.wrong.append(f"{point}: {line}")
        if broken:
            self.wrong.append(f"{point}: the judge died")
        self._note(said)
        self._round += 1
        if self._name == "opening":
            self._path, self._greatest = self._directory / f"{self._round}.db", 0

    def _note(self, lines: Iterable[str]) -> None:
        """Remember the greatest nonce that was told of; no later one may be as low, or the victim's own were old."""
        for line in lines:
            kind, _, number = line.partition(" ")
            if kind in ("issued", "body"):
                if int(number) <= self._greatest:
                    self.wrong.append(f"{line} after {self._greatest}")
                self._greatest = int(number)
            elif kind == "last":
                self._greatest = int(number)
