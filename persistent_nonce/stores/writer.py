"""One change to one key in one transaction, with the ceiling on the disk before a nonce that needs it (I4).

All of this runs under the store's lock. That is more than SQLite asks for: before 3.51.3 it can lose commits when
two connections write and checkpoint at once.

A row is written by comparing and swapping: one statement that stores it only if it is still as it was read. So what
was read the last time need not be read again, and a nonce costs one statement.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import (
    ForkedCallError,
    StoreCorruptError,
    StoreRolledBackError,
    StoreUnavailableError,
    StoreUnsupportedError,
)
from persistent_nonce.nonces import ceiling
from persistent_nonce.state import CallRecord, Change, KeyState
from persistent_nonce.stores import rows, schema
from persistent_nonce.stores.base import LEASE, Leased, Renewal, Wake
from persistent_nonce.stores.failures import RECOVER, primary
from persistent_nonce.stores.identity import Files
from persistent_nonce.stores.marks import Marks, refuse_loss
from persistent_nonce.stores.opening import configure, connect
from persistent_nonce.stores.slots import is_late, voids, went_back

__all__ = ["Writer"]

#: Errors that come before anything is on its way to the disk.
_EARLY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

#: A change is tried again when its row was outdated, and after each of its proofs: seldom more than three times.
_TRIES: Final = range(30)


class Writer:
    """The writing connection of a process. Every method is to be called under the store's lock.

    Args:
        path: the database, which exists; an empty file gets its schema, unless there are marks.
        files: what is compared before each transaction.
        wake: returns a state of another boot as it enters this one, or raises.
        shared: for the mode of the marks, if they are made.

    Raises:
        StoreError: it is not a database of this library, or one this version cannot use.
        sqlite3.Error: it cannot be opened or written.
    """

    def __init__(self, path: Path, files: Files, *, wake: Wake, shared: bool) -> None:
        self.connection = connect(path)
        self._cursor = self.connection.cursor()
        self._execute: Callable[..., sqlite3.Cursor] = self._cursor.execute
        self._forked = False
        self._files = files
        self._marks = Marks(path, shared=shared)
        self._full: bool | None = None
        self._distrust = False
        self._row: tuple[Any, ...] = ()  # the row last read or written, and its state
        self._state = KeyState("")
        self._new_marks = ""  # which they are, until that was stored
        self._wake = wake
        self._undisturbed = False  # nobody else wrote between our last two
        try:
            self._set_up(path)
        except BaseException:
            self.close()
            raise

    def _set_up(self, path: Path) -> None:
        found = schema.version(self.connection)
        if not found:
            refuse_loss(path)
        configure(self._execute)
        self._set_full(True)
        if found < schema.SCHEMA:
            schema.migrate(self.connection)
        self._set_full(False)
        # After the schema is on the disk: a power cut must not leave marks of a database that never was.
        marks = self._marks.open()
        self._execute("BEGIN IMMEDIATE")  # makes -wal and -shm, if nobody else has
        self._files.record()
        if schema.kept(self._execute, "marks") != marks:
            self._new_marks = marks
            if found:  # others may use blocks for so long whose epochs stand in the marks of before (I2)
                time.sleep(2 * LEASE / SECOND)
        self._execute("COMMIT")

    def _set_full(self, full: bool) -> None:
        """Have the next commits wait for the disk, or not; read back, since SQLite ignores what it cannot do."""
        if self._full is full:
            return
        self._full = None
        level = 2 if full else 1
        self._execute(f"PRAGMA synchronous = {level}").fetchall()
        if self._execute("PRAGMA synchronous").fetchall()[0][0] != level:
            raise StoreUnsupportedError("SQLite does not set its synchronous level")
        self._full = full

    def transact(
        self, key: str, change: Change, now: Callable[[], Now], *, durable: bool
    ) -> KeyState:
        """Apply `change` to the newest state of `key` and commit; see the contract in `stores.base`."""
        if self.connection.in_transaction:  # left by an interrupt
            self.connection.rollback()
        try:
            return self._transact(key, change, now, durable)
        except sqlite3.Error as error:
            self._full = None
            if primary(error) not in _EARLY:
                # What was on its way to the disk may be lost: ask it again before trusting `synced`.
                self._distrust = True
            if primary(error) == sqlite3.SQLITE_ERROR:
                # Another schema may have other columns.
                schema.check_version(self.connection)
            raise
        finally:
            if not self._forked and self.connection.in_transaction:
                self.connection.rollback()

    def _transact(
        self, key: str, change: Change, now: Callable[[], Now], durable: bool
    ) -> KeyState:
        proven = 0
        for _ in _TRIES:
            self._files.check()
            self._set_full(durable)
            # Kept from the last time, it may be outdated: then nothing is stored, and what came of it does not count.
            kept = (
                self._undisturbed
                and self._state.key == key
                and bool(self._row)
                and self._marks.stands(key)
            )
            time = now()
            old = self._state if kept else self._load(key, time.boot)
            try:
                same = old.boot == time.boot
                woken, records = (old, ()) if same else self._wake(old, time)
                changed = change(woken, time)
            except Exception:
                if self._is_newest(old):
                    raise
                continue
            state = changed.state
            if state == old and not changed.records:
                if self._is_newest(old):
                    return old
            elif not durable and (
                woken.unit not in (None, state.unit) or woken.every != state.every
            ):
                # No ceiling speaks for a mark in another unit; another boot fills the counter that is stored (I6).
                durable = True
            elif self._above(woken, state, proven):
                proven = self._prove(woken, state, records)
                # However slow the disk was, what it has promised is for the nonce that asked for it.
                now = partial(_at, time.wall, now)
            else:
                if proven:
                    state = state._replace(ceiling=proven, synced=proven)
                if self._store(state, records + changed.records):
                    return state
                proven = 0
        raise StoreUnavailableError(
            f"key {key} does not stand still for a transaction; no nonce was issued",
            "end what writes the database without this library",
        )

    def lease(self, key: str, change: Renewal, now: Callable[[], Now]) -> Leased:
        """Do as `transact`, and return the epoch of `key` as this has left it, if there is a block."""
        state = self.transact(key, change, now, durable=False)
        if not change.block:
            return state, None
        # Was the lock replaced meanwhile, another holder's mark may lie under ours, which would bring its epoch back.
        self._files.check()
        return state, self._marks.epoch(key)

    def _prove(
        self, before: KeyState, after: KeyState, records: tuple[CallRecord, ...]
    ) -> int:
        """Put a ceiling above the nonce of `after` on the disk and return it.

        In a commit before the nonce's own: were `synced` in it, its readers would trust a ceiling whose fsync has not
        returned, and a power cut could forget it.
        """
        proven = ceiling(after)
        self._set_full(True)
        if self._distrust:
            self._write_back()
        # With what bounds the nonce (I10): a cut after this commit must not leave a ceiling above the bound.
        below = before._replace(
            unit=after.unit,
            seen=after.seen,
            offset=after.offset,
            ceiling=proven,
            synced=0,
        )
        if not self._store(below, records):
            return 0
        self._distrust = False
        return proven

    def _write_back(self) -> None:
        """Empty the `-wal` into the database: after a failed fsync, frames in it may be lost that look as if kept."""
        if self._execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]:
            raise StoreUnavailableError(
                "the disk reported an error, and what it has cannot be checked yet; "
                "no nonce was issued",
                "try again; a reader may be in the way",
            )

    def _above(self, before: KeyState, after: KeyState, proven: int) -> bool:
        """Whether a nonce was taken that no commit with fsync covers yet."""
        if after.nonce <= after.synced and not self._distrust:
            return False
        if before.unit not in (None, after.unit):
            return False  # nothing was taken; the mark counts in another unit
        return after.nonce != before.nonce and after.nonce > proven

    def _load(self, key: str, boot: str) -> KeyState:
        """Return the newest state of `key`; a row that nobody has written since is not read again.

        Raises:
            ConfigurationError: there can be no such key.
            StoreCorruptError: the row is damaged, or the key's mark.
            StoreRolledBackError: it is older than the key's mark.
        """
        known = self._row if self._state.key == key else ()
        if known and self._marks.stands(key) and self._is_newest(self._state):
            return self._state
        if not self._marks.knows(key):
            rows.check_fingerprint(key)
        # Whoever is refused below must not find at the next try what was remembered until now.
        self._row, self._state, self._undisturbed = (), KeyState(""), False
        row, state = self._read(key)
        mark = self._marks.find(key)
        if mark is not None and went_back(state, mark, boot):
            self._files.check()  # was the lock replaced meanwhile, another holder may have written between the two
            raise StoreRolledBackError(
                f"the database went back: key {key} stands at {state.nonce}, but {mark.told}; "
                "no nonce was issued",
                RECOVER,
            )
        if is_late(state, mark, boot):
            self._marks.write(state, revision=row[-2])
        self._row, self._state = row, state
        return state

    def _read(self, key: str) -> tuple[tuple[Any, ...], KeyState]:
        found = self._execute(rows.select_row, (key,)).fetchall()
        if not found:
            schema.check_version(self.connection)
            return (), KeyState(key)
        try:
            return found[0], rows.decode(found[0])
        except StoreCorruptError:
            # The check of another schema's row differs too.
            schema.check_version(self.connection)
            raise

    def _is_newest(self, state: KeyState) -> bool:
        """Whether the stored row is still that of `state`, the one last read or written."""
        found = self._execute(rows.select_seal, (state.key,)).fetchall()
        self._undisturbed = found == [rows.seal(self._row)]
        return self._undisturbed or not (found or self._row)

    def _store(self, state: KeyState, records: tuple[CallRecord, ...]) -> bool:
        """Commit `state` with its records; False, and nothing is written, if the row is not as it was read."""
        if self._new_marks:
            schema.keep(self._execute, "marks", self._new_marks)
            self._new_marks = ""
        if records:
            self._execute("BEGIN IMMEDIATE")
        row = rows.write_row(self._execute, self._row, state)
        if not row:
            self._undisturbed = False
            if records:
                self._execute("ROLLBACK")
            return False
        if records:
            rows.write_calls(self._execute, records)
            self._execute("COMMIT")
        if voids(self._state, state):
            self._marks.write(state, revision=row[-2])
        self._row, self._state = row, state
        return True

    def adopt_boot(self, *, alone: bool) -> str:
        """Return the boot's name where the system tells none: a new one if no session lives, else theirs."""
        self._set_full(True)
        self._execute("BEGIN IMMEDIATE")
        found = schema.kept(self._execute, "boot")
        boot = secrets.token_hex(16) if alone or found is None else found
        schema.keep(self._execute, "boot", boot)
        self._execute("COMMIT")
        return boot

    def adopted_boot(self) -> str:
        """Return the name that was adopted last, by whomever."""
        return str(schema.kept(self._execute, "boot"))

    def states(self) -> list[KeyState]:
        """Return the states of all keys but those whose rows are damaged, of which no nonce is issued."""
        return list(rows.readable(self._execute(rows.select_rows).fetchall()))

    def names_session(self, session: str) -> bool:
        """Whether a row still speaks of `session`."""
        query = "SELECT 1 FROM keys WHERE instr(queue, ?) OR instr(running, ?) LIMIT 1"
        return bool(self._execute(query, (session, session)).fetchall())

    def close(self) -> None:
        """Close the connection; the cursor first, since a statement that failed in it would keep the files open."""
        with suppress(sqlite3.ProgrammingError):  # closed before, but interrupted
            self._cursor.close()
        self.connection.close()
        self._marks.close()

    def void(self) -> None:
        """Let nobody lease any more."""
        self._marks.void()

    def forget(self) -> None:
        """Give up the connection without a call to SQLite, in a forked child, which closes it later.

        A fork made by a signal handler may have copied us within a transaction: it is the parent's, and nothing more
        of it is done here.
        """
        self._forked = True
        self._execute = _refuse


def _at(wall: int, now: Callable[[], Now]) -> Now:
    """Return the time by a wall clock that stands; what paces the calls goes on."""
    return now()._replace(wall=wall)


def _refuse(sql: str, *_: object) -> sqlite3.Cursor:
    raise ForkedCallError(f"inherited over fork, in a transaction: {sql}")
