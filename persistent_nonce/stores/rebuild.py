"""Build a database anew that is damaged, lost, or went back: from what can be read of it, the marks, and the clock.

Only upwards (I10): a key goes on above its row, its ceiling, its mark and the clock. A key of which nothing tells the
last nonce is stored closed, until somebody raises its floor. The files are kept as they were found.

Whoever rebuilds may be killed, and the power may fail, at any moment. What is put in place, each on the disk before the
next: the marks of the new database, beside which the old one is refused as having gone back, with its log or without;
then the new database in place of both. In between, the next one finds the new database finished, and puts it in place.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from persistent_nonce.clock import SECOND, SYSTEM_CLOCK, Clock, Now
from persistent_nonce.errors import StoreError, StoreUnavailableError
from persistent_nonce.nonces import lift
from persistent_nonce.rules import wake
from persistent_nonce.state import DEFAULT_UNIT, MAX_NONCE, CallRecord, KeyState
from persistent_nonce.stores import place, rows, schema
from persistent_nonce.stores.failures import FOREIGN, explain
from persistent_nonce.stores.lock import StoreLock
from persistent_nonce.stores.marks import path_of, read_marks, replace_marks
from persistent_nonce.stores.presence import Presence
from persistent_nonce.stores.salvage import Found, salvage
from persistent_nonce.stores.slots import Mark, went_back

__all__ = ["Rebuilt", "RebuiltKey", "rebuild"]

#: Seconds for which the store's lock is waited for.
_PATIENCE: Final = 10.0

_UNKNOWN: Final = "its row was damaged and it has no mark: find its last nonce at the exchange and raise-floor above it"


class RebuiltKey(NamedTuple):
    """A key as it was found, and as it goes on."""

    before: KeyState | None  # its row, if that can be trusted
    mark: Mark | None
    state: KeyState  # as it is stored now


class Rebuilt(NamedTuple):
    """What became of a database."""

    kept: Path | None  # the old one as it was found, if there was one
    keys: tuple[RebuiltKey, ...]
    calls: int  # how many call records were read


def rebuild(path: Path, *, shared: bool, clock: Clock = SYSTEM_CLOCK) -> Rebuilt | None:
    """Rebuild the database `path` under the store's lock; None, and nothing is changed, if nothing is wrong with it.

    A program that goes on with the old one gets StoreReplacedError and has to be started again.

    Raises:
        StoreUnavailableError: a program is in a call or waits for one, or nothing tells of any key.
        StoreCorruptError: the database is somebody else's.
        StoreVersionError: it was written by a newer version.
        StoreError: the place cannot be trusted, locked or written.
    """
    place.check_filesystem(path, implicit=False, trust=False)
    path = place.prepare(path, shared=shared, create=False)
    descriptor = place.open_beside(path, ".lock", shared=shared)
    lock = StoreLock(descriptor, f"the lock of {path}", _PATIENCE)
    try:
        return lock.hold(lambda: _rebuild(path, shared=shared, clock=clock))
    except StoreError:
        raise
    except FOREIGN as error:
        raise explain(error, path) from error
    finally:
        lock.close()


def _rebuild(path: Path, *, shared: bool, clock: Clock) -> Rebuilt | None:
    now = Now(clock.wall(), clock.mono(), clock.boot() or "")
    presence = Presence(path, shared=shared)
    if presence.sweep(lambda _: True):
        raise _in_use(path)
    marks, damaged_marks = read_marks(path_of(path))
    copy, new = _kept(path, now), path.with_name(path.name + ".new")
    found = None if damaged_marks else _finished(new, marks)
    if found is not None:
        with _removed_on_failure(copy):
            _copy(path, copy)
        keys = tuple(_as_built(found, marks))
        _put_in_place(new, path, keys, shared=shared)
        # Keys that came since have marks only.
        return _rebuild(path, shared=shared, clock=clock) or _done(copy, keys, found)
    with _removed_on_failure(copy, new):
        _copy(path, copy)
        found = salvage(copy, trusted=bool(marks))
        if found.whole and not damaged_marks and not _behind(found.states, marks, now):
            _remove(copy)
            return None
        if presence.is_named(found.states.values(), now, found.calls):
            raise _in_use(path)  # its session's file was removed
        keys = tuple(_keys(found, marks, now))
        if not keys:
            raise StoreUnavailableError(
                f"nothing in {path} or its marks tells of a key; nothing was changed",
                "move its files away, and raise-floor each key above its last nonce",
            )
        ended = [
            record
            for state in found.states.values()
            for record in wake(state, now).records
        ]
        states = [key.state for key in keys]
        _build(new, states, [*found.calls, *ended], shared=shared)
        replace_marks(path, map(_mark, states), shared=shared)
    _put_in_place(new, path, keys, shared=shared)
    return _done(copy, keys, found)


def _done(copy: Path, keys: tuple[RebuiltKey, ...], found: Found) -> Rebuilt:
    return Rebuilt(copy if copy.exists() else None, keys, len(found.calls))


def _in_use(path: Path) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"a program still makes calls with {path}; nothing was changed",
        "stop all programs of the store first; show tells their pids",
    )


def _behind(
    states: Mapping[str, KeyState], marks: Mapping[str, Mark], now: Now
) -> bool:
    return any(
        went_back(states.get(key, KeyState(key)), mark, now.boot)
        for key, mark in marks.items()
    )


def _keys(found: Found, marks: Mapping[str, Mark], now: Now) -> Iterator[RebuiltKey]:
    for key in sorted({*found.states, *marks, *found.damaged}):
        before, mark = found.states.get(key), marks.get(key)
        state = KeyState(key) if before is None else wake(before, now).state
        if mark is not None and mark.revision:
            state = lift(state, now, mark.unit, mark.nonce)
        elif before is not None and mark is None and key not in found.damaged:
            state = lift(state, now, state.unit, state.nonce)
        else:
            before = mark = None
            state = state._replace(closed=True, diagnosis=_UNKNOWN)
        yield RebuiltKey(before, mark, state._replace(boot=now.boot))


def _is_unknown(state: KeyState) -> bool:
    return state.closed and state.diagnosis == _UNKNOWN


def _mark(state: KeyState) -> Mark:
    """Return the mark of a state that is written as the first revision of its row.

    Of a key whose last nonce nobody knows it is the greatest there is: what an older row of it tells is not the truth.
    """
    if _is_unknown(state):
        return Mark(state.key, 0, MAX_NONCE, "s")
    return Mark(state.key, 1, state.nonce, state.unit or DEFAULT_UNIT)


# --- the old database


def _kept(path: Path, now: Now) -> Path:
    """Return the name under which the database is kept as it was found."""
    at = datetime.fromtimestamp(now.wall / SECOND, UTC)
    while True:
        copy = path.with_name(f"{path.name}.damaged-{at:%Y%m%dT%H%M%S.%fZ}")
        if not copy.exists():
            return copy
        at += timedelta(microseconds=1)


def _copy(path: Path, copy: Path) -> None:
    """Copy the database and its -wal, as they are, to names of their own."""
    for suffix in ("", "-wal"):
        if os.path.exists(f"{path}{suffix}"):
            shutil.copy2(f"{path}{suffix}", f"{copy}{suffix}")


@contextmanager
def _removed_on_failure(*paths: Path) -> Iterator[None]:
    """Remove what is half-done when it fails: on a full disk above all it would be in the way."""
    try:
        yield
    except (*FOREIGN, StoreError):
        for path in paths:
            _remove(path)
        raise


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


# --- the new one


def _build(
    new: Path,
    states: Iterable[KeyState],
    calls: Iterable[CallRecord],
    *,
    shared: bool,
) -> None:
    """Write a new database, all of it on the disk."""
    _remove(new)  # of one that was killed
    place.create_database(new, shared=shared)
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {schema.PAGE}")
        connection.execute("PRAGMA synchronous = FULL")
        schema.migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        for state in states:
            rows.write_row(connection.execute, (), state)
        for call in calls:
            _write_call(connection, call)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _finished(new: Path, marks: Mapping[str, Mark]) -> Found | None:
    """Return what another has built, if it was killed after its marks, and no nonce was used since."""
    if not new.exists() or os.path.exists(f"{new}-journal"):
        return None
    found = salvage(new, trusted=True)
    its = {key: _mark(state) for key, state in found.states.items()}
    return found if found.whole and its and its.items() <= marks.items() else None


def _as_built(found: Found, marks: Mapping[str, Mark]) -> Iterator[RebuiltKey]:
    for key, state in found.states.items():
        known = not _is_unknown(state)
        yield (
            RebuiltKey(state, marks[key], state)
            if known
            else RebuiltKey(None, None, state)
        )


def _put_in_place(
    new: Path, path: Path, keys: Iterable[RebuiltKey], *, shared: bool
) -> None:
    """Put a new database, whose marks are in place, in the place of the old one."""
    # Were the old -wal left, SQLite would replay it into the new database; also after a power cut.
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    place.sync(path.parent)
    os.replace(new, path)
    place.sync(path.parent)
    if any(_is_unknown(key.state) for key in keys):
        # There is no older row any more; these keys wait for a floor, which lies above nothing.
        marks, _ = read_marks(path_of(path))
        lowered = (m if m.revision else m._replace(nonce=0) for m in marks.values())
        replace_marks(path, lowered, shared=shared)


def _write_call(connection: sqlite3.Connection, call: CallRecord) -> None:
    with suppress(sqlite3.IntegrityError):  # damaged: no column can be trusted
        rows.write_calls(connection.execute, [call])
