"""Holders and waiters that stop, block, hang, leave by an error or lose their session's file: what the others see."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from persistent_nonce import CallGate, GateTimeoutError, SQLiteStore
from persistent_nonce.clock import SECOND
from tests.support import databases
from tests.support.callers import GUARD, Caller, pass_through, until
from tests.support.faulting_callers import (
    ENDINGS,
    block_a_loop,
    leave_a_place,
    nothing_left,
)
from tests.support.faulting_sizes import LONG, figure, times
from tests.support.processes import Children
from tests.support.workers import KEY

pytestmark = pytest.mark.timeout(LONG)

path, store = databases.path, databases.store
gate, children = databases.gate, databases.children


def queue_is(store: SQLiteStore, gate: CallGate, length: int) -> None:
    """Wait until so many calls wait, and nobody is in the store any more."""
    until(lambda: len(store.read(gate.key).queue) == length, f"{length} in the queue")
    pass_through(store, gate)


def entered_after(gate: CallGate) -> float:
    """Make a call; return the seconds until it began."""
    begin = time.monotonic()
    with gate.call("Balance"):
        return time.monotonic() - begin


# --- the holder


def test_stopped_holders(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children
) -> None:
    """A stopped holder keeps its call; waiters time out, told of its pid and state; the order stays (I5, I8; A17)."""
    holder, early = Caller(children, path), Caller(children, path)
    stop, limit = (3.0, 1.0) if times(0, 1) else (0.5, 0.2)
    waited = []

    def wait() -> str:
        begin = time.monotonic()
        with pytest.raises(GateTimeoutError) as raised:
            gate.call("Balance", timeout=limit).__enter__()
        waited.append(time.monotonic() - begin)
        return str(raised.value)

    for _ in range(times(2, 20)):
        nonce = holder.enter("Ledgers")
        early.ask("Balance")
        queue_is(store, gate, 1)
        holder.signal(signal.SIGSTOP)
        end = time.monotonic() + stop
        with ThreadPoolExecutor(2) as pool:
            said = [future.result() for future in [pool.submit(wait) for _ in "ab"]]
        for text in said:
            assert f"Ledgers of process {holder.pid} (stopped) for " in text
        running = store.read(gate.key).running
        assert running is not None
        assert running.nonce == nonce
        time.sleep(max(0.0, end - time.monotonic()))  # the stop is as long as it says
        assert len(store.read(gate.key).queue) == 1
        late = threading.Thread(target=entered_after, args=(gate,))
        late.start()
        queue_is(store, gate, 2)
        holder.signal(signal.SIGCONT)
        holder.leave()
        assert early.answer() > nonce  # before the one that came later, which waits
        assert late.is_alive()
        early.leave()
        late.join(GUARD)
        assert not late.is_alive()
    figure("timed out after, seconds", (round(min(waited), 3), round(max(waited), 3)))
    assert limit <= min(waited)
    assert max(waited) < limit + GUARD


def test_hanging_holders_are_overtaken(
    path: Path, store: SQLiteStore, children: Children
) -> None:
    """Past its `hold_timeout` a call is overtaken by the next with a greater nonce, and in doubt (I5, I8; A37)."""
    hold = 0.1
    hanging = CallGate(store, KEY, min_interval=0.0, hold_timeout=hold)
    after = []
    for _ in range(times(5, 20)):
        other = CallGate(store, KEY, min_interval=0.0, timeout=GUARD)
        held = hanging.call("AddOrder", durable=True)
        held.__enter__()
        taken: list[int] = []

        def take(other: CallGate = other, taken: list[int] = taken) -> None:
            with other.call("Balance") as call:
                taken.append(call.nonce)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join(GUARD)
        assert taken
        assert taken[0] > held.nonce
        newest = {record.nonce: record for record in store.calls()}
        assert newest[held.nonce].outcome == "unknown"
        after.append((newest[taken[0]].at - newest[held.nonce].at) / SECOND)
        held.__exit__(None, None, None)
        newest = {record.nonce: record for record in store.calls()}
        assert newest[held.nonce].outcome == "ok"  # it ended after all
    figure("overtaken after, seconds", (round(min(after), 3), round(max(after), 3)))
    assert hold / 2 < min(after)  # by the wall clock, which may be slewed
    assert max(after) < GUARD
    assert nothing_left(store, hanging)


@pytest.mark.parametrize("how", ENDINGS)
def test_calls_that_end_before_their_time(
    store: SQLiteStore, gate: CallGate, how: str
) -> None:
    """However a call ends before its time, the gate is free, and the error is the body's own (I5; A19)."""
    rounds, longest = times(50, 1_000), 0.0
    with SQLiteStore(store.path, timeout=60) as beside:
        other = CallGate(beside, KEY, min_interval=0.0, timeout=GUARD)
        for _ in range(rounds):
            ENDINGS[how](gate)
            longest = max(longest, entered_after(other))
    figure(f"{how}: free after, seconds at the most", round(longest, 4))
    assert nothing_left(store, gate)
    records = store.calls(limit=3_000)
    outcomes = [r.outcome for r in records if r.method == "AddOrder"]
    assert outcomes == ["unknown"] * rounds


# --- the waiter at the head


def lets_pass(store: SQLiteStore, gate: CallGate) -> float:
    """Check that a waiter that does not move is passed over, and keeps its ticket; return how long that took."""
    ticket = store.read(gate.key).queue[0].ticket
    longest = entered_after(gate)
    again = entered_after(gate)  # it costs the others a second once
    figure("the next one after, seconds", round(again, 4))
    (kept,) = store.read(gate.key).queue
    assert (kept.ticket, kept.late) == (ticket, True)
    return longest


def test_stopped_waiters(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children
) -> None:
    """A waiter stopped at the head is passed over within a second, and keeps its ticket (I7; A35)."""
    waiter, passed = Caller(children, path), []
    for _ in range(times(1, 20)):
        with gate.call("Ledgers"):
            waiter.ask("Balance")
            queue_is(store, gate, 1)
            waiter.signal(signal.SIGSTOP)
        passed.append(lets_pass(store, gate))
        waiter.signal(signal.SIGCONT)
        assert isinstance(waiter.answer(), int)
        waiter.leave()
    figure("stopped: passed over after, seconds at the most", round(max(passed), 3))
    assert max(passed) < GUARD


def test_blocked_loops(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children
) -> None:
    """A waiter on an event loop that stands still is passed over likewise (I7; A35)."""
    waiter, passed = children.call(block_a_loop, path), []
    for _ in range(times(1, 20)):
        with gate.call("Ledgers"):
            waiter.tell("again")
            queue_is(store, gate, 1)
            waiter.tell("block")
            waiter.wait_for("blocked")
        passed.append(lets_pass(store, gate))
        waiter.tell()
        waiter.wait_for("done")
    figure("blocked: passed over after, seconds at the most", round(max(passed), 3))


def test_places_that_nobody_takes(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children
) -> None:
    """A place in the queue that its process has forgotten is passed over likewise, and goes with its object (A35)."""
    waiter, passed = children.call(leave_a_place, path), []
    for _ in range(times(1, 20)):
        with gate.call("Ledgers"):
            waiter.tell("again")
            waiter.wait_for("left")
        passed.append(lets_pass(store, gate))
        waiter.tell()
        waiter.wait_for("gone")
        queue_is(store, gate, 0)
    figure("forgotten: passed over after, seconds at the most", round(max(passed), 3))


# --- sessions without a file


def _replace_by_copy(file: Path) -> None:
    """Put a copy of a file in its place, as rsync, tar and editors do."""
    copy = file.with_name(f"{file.name}~")
    shutil.copy2(file, copy)
    copy.replace(file)


@pytest.mark.parametrize("how", ["a copy", "the file", "the directory"])
def test_a_cleaner_removes_the_file_of_a_session(
    path: Path, store: SQLiteStore, gate: CallGate, children: Children, how: str
) -> None:
    """Who lost its session's file, or has a copy of it, lives on for the others: in its call, and waiting (I5; A34)."""
    harm = _replace_by_copy if how == "a copy" else Path.unlink
    holder, waiter = Caller(children, path), Caller(children, path)
    sessions = path.with_name(path.name + ".sessions")
    for _ in range(times(3, 20)):
        nonce = holder.enter("AddOrder")
        waiter.ask("Balance")
        queue_is(store, gate, 1)
        if how == "the directory":
            shutil.rmtree(sessions)
        else:
            for file in sessions.iterdir():
                harm(file)
        with pytest.raises(GateTimeoutError, match=f"process {holder.pid} "):
            gate.call("Ledgers", timeout=0.2).__enter__()
        running, queue = store.read(gate.key).running, store.read(gate.key).queue
        assert running is not None
        assert running.nonce == nonce
        assert [call.session.split("-")[0] for call in queue] == [str(waiter.pid)]
        holder.leave()
        assert waiter.answer() > nonce
        waiter.leave()
    with gate.call("Balance"):
        pass
    assert {record.outcome for record in store.calls()} == {"ok"}
    assert os.listdir(sessions)
    # A killed one is found dead all the same.
    nonce = holder.enter("AddOrder")
    for file in sessions.iterdir():
        harm(file)
    holder.signal(signal.SIGKILL)
    with gate.call("Balance") as call:
        assert call.nonce > nonce
    assert [r.outcome for r in store.calls()][:2] == ["ok", "interrupted"]
