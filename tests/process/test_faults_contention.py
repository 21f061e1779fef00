"""Many threads, processes and keys at once, and neighbours who do what they should not with the same database."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.clock import SECOND
from tests.support.callers import Book, until
from tests.support.checker import Operation, read_logs, violations
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.faulting_workers import (
    call_until,
    checkpoint_on,
    contend,
    draw_and_reopen,
    draw_beside,
    reach_in,
)
from tests.support.processes import Children, begin

PROCESSES = 8
THREADS = 4

#: Any of the figures of a fairness that is to be had, over this, fails a test: for slow machines.
SLOW = 10.0


def row_by_row(drawn: list[Operation]) -> None:
    """Check a key's nonces, taken by a clock that stands still: none twice, none missing, in order (I1, I2)."""
    values = sorted(operation.value for operation in drawn)
    assert values == list(range(values[0], values[0] + len(values)))
    assert violations(drawn) == []


def intact(path: Path) -> None:
    """Check that SQLite finds no damage."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()
    assert found == [("ok",)]


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("keys", [1, 8])
def test_processes_and_threads_on_one_key_and_on_eight(
    tmp_path: Path, keys: int
) -> None:
    """8 processes × 4 threads: no nonce twice, none out of order, none lost; keys know nothing of each other (A1)."""
    path = tmp_path / "nonces.db"
    each = times(500, 8_000) // keys
    for key in range(keys):
        (tmp_path / str(key)).mkdir()
    with Children() as children:
        workers = [
            children.call(contend, path, tmp_path, THREADS, keys, each)
            for _ in range(PROCESSES)
        ]
        begin(workers)
        for worker in workers:
            worker.result()
    firsts = set()
    for key in range(keys):
        drawn = read_logs(tmp_path / str(key))
        assert len(drawn) == PROCESSES * THREADS * each
        row_by_row(drawn)
        firsts.add(min(operation.value for operation in drawn))
    assert len(firsts) == 1  # each key began at the clock, however far others were
    intact(path)


@pytest.mark.parametrize("how", ["files", "apsw", "fork"])
def test_transactions_that_meddle(tmp_path: Path, how: str) -> None:
    """Who opens and closes the files, or forks, in a transaction of its own lets nobody else in (I1, I9; A14, A15).

    The first drops all locks of SQLite's that the process holds, so a neighbour that closes may take the -wal away: the
    process is told that, and issues nothing from the dead file.
    """
    if how == "apsw" and importlib.util.find_spec("apsw") is None:
        pytest.skip("NOT RUN: apsw, a second copy of SQLite, is not installed")
    path = tmp_path / "nonces.db"
    with Children() as children:
        other = children.call(draw_beside, path, tmp_path / "other.log", 1.5)
        until(lambda: bool(read_logs(tmp_path)), "a neighbour that draws")
        culprit = children.call(reach_in, path, tmp_path / "culprit.log", how, 40)
        said = culprit.result()
        told = {*said["errors"], other.result()}
        last = children.call(draw_beside, path, tmp_path / "last.log", 0.0)
        told.add(last.result())
    figure(f"{how}: a lost file noticed, times", len(said["errors"]))
    drawn = read_logs(tmp_path)
    assert violations(drawn) == []
    for begun, ended in said["held"]:
        inside = [o for o in drawn if begun < o.call and o.returned < ended]
        assert inside == [], "a nonce beside a transaction"
    # A second SQLite takes the -wal away itself if nobody else has the database open. A nonce from the dead file is
    # found missing then, and nobody goes on before `recover`.
    allowed = {"", "StoreReplacedError"} | (
        {"StoreRolledBackError"} if how == "apsw" else set()
    )
    assert told <= (allowed if how != "fork" else {""})
    if said["whole"]:
        assert len(said["held"]) + len(said["errors"]) >= 40
    if told == {""}:  # who was refused after its commit has burnt a nonce
        row_by_row(drawn)
    intact(path)


@pytest.mark.timeout(LONG)
def test_writers_and_checkpointers(tmp_path: Path) -> None:
    """3 writers and 3 checkpointers lose no commit, with whatever SQLite there is: each nonce is there once (A26)."""
    path, checkpoints = tmp_path / "nonces.db", 0
    for number in range(times(1, 50)):
        with Children() as children:
            writers = [
                children.call(
                    draw_and_reopen, path, tmp_path / f"{number}-{n}.log", 4.0
                )
                for n in range(3)
            ]
            workers = [children.call(checkpoint_on, path, 4.0) for _ in range(3)]
            for writer in writers:
                writer.result()
            done = [worker.result() for worker in workers]
        assert min(done) > 0
        checkpoints += sum(done)
        intact(path)
    drawn = read_logs(tmp_path)
    row_by_row(drawn)
    figure("nonces and checkpoints", (len(drawn), checkpoints))


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("number", range(times(1, 3)))
def test_turns_are_shared_fairly(tmp_path: Path, number: int) -> None:
    """8 processes with calls of 2 ms have their turns in the order in which they came, and equal shares (I7; A21)."""
    path, book = tmp_path / "nonces.db", tmp_path / "book"
    with Children() as children:
        length = float(times(2, 6))
        workers = [
            children.call(call_until, path, book, length, 0.002)
            for _ in range(PROCESSES)
        ]
        begin(workers)
        said = [worker.result() for worker in workers]
    shares = [worker["calls"] for worker in said]
    longest = max(worker["longest"] for worker in said)
    figure("longest wait, seconds", round(longest, 3))
    figure("smallest / largest share", round(min(shares) / max(shares), 3))
    figure("calls", sum(shares))
    assert longest <= 0.5 * SLOW
    assert min(shares) / max(shares) >= 0.8 / SLOW
    visits = Book(book).visits()
    assert Counter(Counter(v.pid for v in visits).values()) == Counter(shares)
    with SQLiteStore(path) as store:
        records = store.calls(limit=2_000)[::-1]
    for one, other in pairwise(records):
        # When it came: an exact order, but for whoever was passed over, having let a second of its turn pass.
        came = one.at - one.waited, other.at - other.waited
        clock_step = 50_000_000  # the wall clock of the records may be slewed
        assert came[0] <= came[1] + clock_step or one.waited >= SECOND
