"""Programs that end with a call in flight, or waiting, or drawing: they do end, and nobody has to clean up."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from persistent_nonce import CallGate, SQLiteStore
from persistent_nonce.provider import NonceProvider
from tests.support import databases
from tests.support.callers import until
from tests.support.checker import read_logs, violations
from tests.support.faulting_exits import (
    ENDS,
    draw_to_the_end,
    end,
    end_waiting,
    late_hook,
)
from tests.support.faulting_sizes import LONG, times
from tests.support.processes import Children
from tests.support.workers import KEY

pytestmark = pytest.mark.timeout(LONG)

path, store = databases.path, databases.store
gate, children = databases.gate, databases.children


@pytest.mark.parametrize("how", ENDS)
def test_a_program_ends_in_its_call(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children, how: str
) -> None:
    """However a program ends in its call, it does end, the call is on record as what it was, the next begins (I3)."""
    rounds = times(1, 20)
    _, status, outcome = ENDS[how]
    for _ in range(rounds):
        assert children.call(end, path, how).end() == status
        with gate.call("Balance"):
            pass
    records = [(record.method, record.outcome) for record in reversed(store.calls())]
    assert records == [("AddOrder", outcome), ("Balance", "ok")] * rounds
    assert store.read(gate.key).queue == ()


@pytest.mark.parametrize("how", ["return", "os._exit", "SIGKILL"])
def test_a_program_ends_while_it_waits(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children, how: str
) -> None:
    """A program that ends with a daemon thread waiting for its turn holds up nobody behind it (I3, I7)."""
    for _ in range(times(1, 20)):
        with gate.call("Ledgers"):
            child = children.call(end_waiting, path, how)
            assert (child.end() == 0) == (how != "SIGKILL")
        with gate.call("Balance") as call:
            assert call.nonce > 0
    assert store.read(gate.key).queue == ()
    assert {record.outcome for record in store.calls()} == {"ok"}


def test_a_hook_after_the_library_s_own(path: Path, children: Children) -> None:
    """A program that draws when the store was closed at its exit is told so, and ends (I9)."""
    child = children.call(late_hook, path)
    assert int(child.line()) > 0
    assert child.line() == "\0null"  # its function has returned
    assert child.line() == "StoreUnavailableError"
    assert child.end() == 0


def test_daemon_threads_draw_to_the_end(
    path: Path, tmp_path: Path, children: Children
) -> None:
    """A program that ends while its daemon threads draw does end, and the next draws above all of theirs (I1, I2)."""
    rounds = times(3, 50)
    ends = []
    for number in range(rounds):
        log = tmp_path / f"{number}"
        assert children.call(draw_to_the_end, path, log, 3).end() == 0
        with SQLiteStore(path, timeout=60) as store:
            ends.append(NonceProvider(store, KEY).next())
    drawn = read_logs(tmp_path)
    assert len(drawn) >= 60 * rounds
    assert violations(drawn) == []
    assert max(operation.value for operation in drawn) < ends[-1]
    assert all(one < other for one, other in pairwise(ends))


def test_the_sessions_of_ended_programs_are_swept(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children
) -> None:
    """What ended programs left of their sessions goes with the next one that begins (I3)."""
    for how in ("os._exit", "SIGTERM", "sys.exit"):
        children.call(end, path, how).end()
        with gate.call("Balance"):
            pass
    children.call(end, path, "sys.exit").end()
    until(
        lambda: len([*path.with_name("nonces.db.sessions").iterdir()]) == 1, "a sweep"
    )
