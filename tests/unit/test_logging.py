"""What is logged, at which level: the logger `persistent_nonce`, and one line for each event."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import CallGate, InvalidNonceError, Rate, Recovery, SQLiteStore
from persistent_nonce.recovery import lockout
from persistent_nonce.state import Changed, KeyState, fingerprint
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.filesystems import check_filesystem
from persistent_nonce.stores.memory import MemoryStore
from persistent_nonce.testing import ScaledClock

KEY: Final = fingerprint("key")

#: So many times as fast as the machine's runs the clock of these tests.
SCALE: Final = 10


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="persistent_nonce")


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    """Return a store whose clock runs faster."""
    store = MemoryStore(clock=ScaledClock(SCALE))
    yield store
    store.close()


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what was logged at a level, each of it one line of our logger."""
    found = [record for record in caplog.records if record.levelno == level]
    messages = [record.getMessage() for record in found]
    assert all(record.name == "persistent_nonce" for record in found)
    assert all(len(message.splitlines()) == 1 for message in messages)
    return messages


def gate(store: Store) -> CallGate:
    """Return a gate that closes its key after two refusals."""
    return CallGate(store, "key", recovery=Recovery(attempts=2))


def refuse(gate: CallGate) -> None:
    """Make a call whose nonce is refused."""
    with pytest.raises(InvalidNonceError), gate.call("Balance"):
        raise InvalidNonceError


def test_a_call_that_does_not_wait_logs_nothing(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that starts at once and ends well is no event."""
    with gate(store).call("Balance"):
        pass
    assert caplog.records == []


def test_a_wait_is_logged_with_milliseconds_and_reason(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """DEBUG: each wait, how long it was and what for; here the interval."""
    ours = CallGate(store, "key", min_interval=5.0)
    for _ in range(2):
        with ours.call("Balance") as call:
            pass
    (line,) = lines(caplog, logging.DEBUG)
    expected = rf"Balance of key {KEY} waited (\d+) ms for the interval"
    match = re.fullmatch(expected, line)
    assert match
    assert int(match[1]) == int(call.waited * 1000) > 0


def test_a_wait_for_another_call_names_it(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """DEBUG: a wait for the call of another names that call."""
    ours = gate(store)

    def wait() -> None:
        with ours.call("Ledgers"):
            pass

    thread = threading.Thread(target=wait)
    with ours.call("Withdraw"):
        thread.start()
        while not store.read(KEY).queue:
            assert thread.is_alive()
    thread.join(30)
    assert not thread.is_alive()
    (line,) = lines(caplog, logging.DEBUG)
    assert re.fullmatch(
        rf"Ledgers of key {KEY} waited \d+ ms for (Withdraw of process 0|the interval)",
        line,
    )


def test_a_wait_for_the_counter_is_logged(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """DEBUG: a wait for the exchange's call counter says so; a long one is a warning with the remedy, once."""
    ours = CallGate(store, "counted", rate=Rate(8.0, 1), min_interval=0)
    for _ in range(3):
        with ours.call("Balance"):
            pass
    waits = lines(caplog, logging.DEBUG)
    assert len(waits) == 2
    assert all("for the call counter" in line for line in waits)
    (warning,) = lines(caplog, logging.WARNING)
    assert warning.endswith(f"persistent-nonce set-tier {ours.key} TIER")


def test_opening_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """INFO: which database was opened, with which SQLite."""
    SQLiteStore(tmp_path / "nonces.db").close()
    (line,) = lines(caplog, logging.INFO)
    assert line.startswith(f"opened {tmp_path / 'nonces.db'}, SQLite ")


def test_a_refusal_a_jump_and_a_back_off_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """WARNING: a refused nonce, how far the mark jumped, and how long all calls of the key wait."""
    store = MemoryStore()  # in real time, or the back-off would be over before the call
    ours = gate(store)
    refuse(ours)
    refused, jump, back_off = lines(caplog, logging.WARNING)
    assert re.fullmatch(
        rf"Balance of key {KEY}: nonce \d+ refused, 1 in a row", refused
    )
    assert jump == f"key {KEY} jumps to {store.read(KEY).nonce}"
    assert re.fullmatch(
        rf"key {KEY} backs off for [012]\.\d s: refused nonce \d+", back_off
    )
    caplog.clear()
    with ours.call("Balance"):
        pass
    (line,) = lines(caplog, logging.DEBUG)
    assert "for the back-off (refused nonce " in line


def test_a_closed_key_is_logged(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """WARNING: that repeated refusals have closed the key, with the diagnosis."""
    ours = gate(store)
    refuse(ours)
    caplog.clear()
    refuse(ours)
    warnings = lines(caplog, logging.WARNING)
    assert f"key {KEY} is closed: {store.read(KEY).diagnosis}" in warnings


def test_a_lockout_that_is_waited_for_is_logged(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """DEBUG: a wait for a lockout says what the exchange said."""

    def change(state: KeyState, now: object) -> Changed:
        return Changed(lockout(state, store.now(), 10**10, "EService:Throttled"))

    store.update(KEY, change)
    with gate(store).call("Balance"):
        pass
    (line,) = lines(caplog, logging.DEBUG)
    assert line.endswith("for the back-off (EService:Throttled)")


def test_a_dead_session_is_logged(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """WARNING: that a process died, with the name of its session, and the call that it may have sent."""
    ours = gate(store)
    abandoned = ours.call("Withdraw")
    abandoned.__enter__()
    first, nonce = store.session(), abandoned.nonce
    first.end()
    with ours.call("Balance"):
        pass
    assert lines(caplog, logging.WARNING) == [
        f"session {first.name} is dead; it used key {KEY}",
        f"Withdraw of key {KEY}, nonce {nonce}, may have been executed: its process died",
    ]


def test_an_overtaken_call_is_logged(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """WARNING: that a call did not end in time, so that the next one goes on without it."""
    slow = CallGate(store, "key", hold_timeout=0.2).call("AddOrder")
    slow.__enter__()
    overtaking = threading.Thread(target=gate(store).call("Balance").__enter__)
    overtaking.start()
    overtaking.join()
    (line,) = lines(caplog, logging.WARNING)
    assert line.startswith(f"AddOrder of key {KEY}, nonce {slow.nonce}, may have been")
    assert line.endswith("it did not end in time")


def test_an_override_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """WARNING: that a file system is used although it is not known to work."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 0:1 / / rw - nfs4 server:/ rw\n")
    database = tmp_path / "nonces.db"
    check_filesystem(database, implicit=False, trust=True, mountinfo=str(mounts))
    (line,) = lines(caplog, logging.WARNING)
    assert "'nfs4'" in line
    assert line.endswith("used all the same, as asked for")


def test_the_library_sets_no_handler() -> None:
    """What happens to the log is the application's choice: no handler and no level of ours."""
    logger = logging.getLogger("persistent_nonce")
    assert logger.handlers == []
    assert logger.propagate
