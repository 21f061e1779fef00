"""What an update owes its caller: the newest state, all or nothing, the time under the lock."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from persistent_nonce import nonces
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.state import CallRecord, Changed, KeyState
from persistent_nonce.stores.base import Store
from tests.conformance.conftest import Opener
from tests.support.clocks import StillClock

KEY = "0123456789abcdef"
OTHER = "fedcba9876543210"


def take(state: KeyState, now: Now) -> Changed:
    """Take one nonce."""
    return Changed(nonces.issue(state, now))


def record(number: int, *, key: str = KEY, serial: int = 0) -> CallRecord:
    """Return the record of a call, settled as the `serial`-th unless that is 0."""
    return CallRecord(
        id=f"call-{number}",
        key=key,
        session="1-2-3-4",
        method="Balance",
        cost=1,
        nonce=number + 1,
        at=number,
        waited=0,
        took=None,
        outcome="ok" if serial else "unknown",
        serial=serial,
    )


def write(store: Store, *records: CallRecord, key: str = KEY) -> None:
    """Store call records."""
    store.update(key, lambda state, now: Changed(state, records))


def test_what_is_known_of_a_call_is_not_put_in_doubt_again(store: Store) -> None:
    """A doubt that was read before the call ended does not replace its end, but an end replaces a doubt."""
    doubt, known = record(1), record(1, serial=1)
    write(store, doubt)
    write(store, known)
    write(store, doubt)
    assert store.calls(KEY) == [known]
    lost = known._replace(outcome="not_executed", serial=2)
    write(store, lost)
    assert store.calls(KEY) == [lost]


def test_unknown_key_is_new(store: Store) -> None:
    """A key that was never written to reads as new, and reading does not make it known."""
    assert store.read(KEY) == KeyState(KEY)
    assert store.keys() == []


def test_update_returns_what_is_stored(store: Store) -> None:
    """What update returns is what the next reader and the next change get, to the last field."""
    first = store.update(KEY, take)
    assert store.read(KEY) == first
    seen = []

    def look(state: KeyState, now: Now) -> Changed:
        seen.append(state)
        return Changed(state)

    assert store.update(KEY, look) == first
    assert seen[-1] == first


def test_change_gets_the_time_of_the_store(store: Store, clock: StillClock) -> None:
    """The time given to a change is the store's clock, in the store's boot."""
    times = []

    def look(state: KeyState, now: Now) -> Changed:
        times.append(now)
        return Changed(state)

    store.update(KEY, look)
    clock.advance(5)
    store.update(KEY, look)
    assert times[-1] == store.now() == Now(clock.now, clock.up, "first boot")


def test_raising_change_stores_nothing(store: Store) -> None:
    """An error of a change comes through as it is, and neither state nor records are stored (I9)."""
    before = store.update(KEY, take)
    calls = store.calls()

    def fail(state: KeyState, now: Now) -> Changed:
        take(state, now)
        raise ZeroDivisionError("of the change")

    with pytest.raises(ZeroDivisionError, match="of the change"):
        store.update(KEY, fail)
    assert store.read(KEY) == before
    assert store.calls() == calls
    assert store.update(KEY, take).nonce == before.nonce + 1


def test_keys_are_apart(store: Store) -> None:
    """One key's nonces move no other key, and all keys are listed in order."""
    store.update(OTHER, take)
    before = store.read(OTHER)
    for _ in range(3):
        store.update(KEY, take)
    assert store.read(OTHER) == before
    assert store.keys() == [KEY, OTHER]


def test_every_field_comes_back(store: Store) -> None:
    """A state with something in each field is read as it was written."""
    full = None

    def fill(state: KeyState, now: Now) -> Changed:
        nonlocal full
        full = state._replace(
            label="bot “1” '\n",
            tier="pro",
            reason="r",
            diagnosis="d",
            healed="call-1",
            unit="us",
            min_interval=1,
            every=2,
            burst=3,
            attempts=4,
            max_lead=5,
            greatest=2**53 - 1,
            started=6,
            tat=7,
            not_before=-8,
            set_at=-9,
            exempt=True,
            refusals=10,
            jumped_at=11,
            closed=True,
            ticket=12,
            settled=13,
        )
        return Changed(full)

    assert store.update(KEY, fill) == full
    assert store.read(KEY) == full


def test_durable_update_is_the_same(store: Store) -> None:
    """An update that has to be on the disk returns and stores the same as any other."""
    first = store.update(KEY, take, durable=True)
    assert store.read(KEY) == first
    assert store.update(KEY, take).nonce == first.nonce + 1


def test_ceiling_covers_what_was_issued(store: Store) -> None:
    """After every update, no nonce lies above `synced` nor a ceiling above the bound (I4, I10)."""
    for _ in range(3):
        state = store.update(KEY, take)
        assert state.nonce <= state.synced <= state.ceiling <= state.bound

    def near_the_end(state: KeyState, now: Now) -> Changed:
        return Changed(nonces.issue(state, now, 899_990))

    state = store.update(KEY, near_the_end)
    assert state.nonce <= state.synced <= state.ceiling <= state.bound


def test_another_boot_starts_above_the_ceiling(opener: Opener) -> None:
    """In another boot, with the clock an hour back, the first nonce is above all that may have been issued (I4)."""
    store = opener(StillClock())
    for _ in range(10):
        last = store.update(KEY, take)
    store.close()
    back = StillClock(wall=StillClock().now - 3_600 * SECOND, name="second boot")
    store = opener(back)
    state = store.update(KEY, take)
    assert state.nonce > last.ceiling > last.nonce
    assert state.boot == "second boot"


def test_same_boot_goes_on_from_the_mark(opener: Opener) -> None:
    """A restart within one boot skips nothing, also with the clock an hour back."""
    store = opener(StillClock())
    last = store.update(KEY, take).nonce
    store.close()
    store = opener(StillClock(wall=StillClock().now - 3_600 * SECOND))
    assert store.update(KEY, take).nonce == last + 1


def test_records_come_newest_first(store: Store) -> None:
    """Call records are listed newest first, of one key or of all, no more than asked for."""
    write(store, record(1), record(3))
    write(store, record(2, key=OTHER), key=OTHER)
    assert [call.id for call in store.calls()] == ["call-3", "call-2", "call-1"]
    assert [call.id for call in store.calls(KEY)] == ["call-3", "call-1"]
    assert [call.id for call in store.calls(limit=1)] == ["call-3"]
    assert store.calls(OTHER) == [record(2, key=OTHER)]


def test_record_is_replaced_by_its_id(store: Store) -> None:
    """A call has one record, which takes its later outcome and keeps the number it was settled under."""
    write(store, record(1))
    ended = record(1, serial=7)._replace(took=5)
    write(store, ended)
    assert store.calls() == [ended]
    write(store, ended._replace(outcome="error", serial=0))
    assert [(call.outcome, call.serial) for call in store.calls()] == [("error", 7)]


def test_every_field_of_a_record_comes_back(store: Store) -> None:
    """A record with something in each field is read as it was written, also when its call had begun before."""
    begun = record(1)._replace(
        since=-5, boot="boot “1”", reference="cl_ord_id=é", outcome="in_flight"
    )
    write(store, begun)
    assert store.calls() == [begun]
    ended = begun._replace(
        took=0, outcome="error", said="EOrder:\n\0 '\U0001f600", serial=3
    )
    write(store, ended)
    assert store.calls() == [ended]


def test_old_settled_records_are_trimmed(store: Store) -> None:
    """Of a key's settled records the newest 1000 are kept, with few more; those in doubt stay, and other keys'."""
    write(store, record(0))
    write(store, record(1, key=OTHER, serial=1), key=OTHER)
    write(store, *[record(n, serial=n) for n in range(2, 1_103)])
    kept = store.calls(KEY, limit=2_000)
    serials = [call.serial for call in kept if call.serial]
    assert serials == list(range(1_102, 1_102 - len(serials), -1))
    assert 1_000 <= len(serials) < 1_050
    assert [call.id for call in kept if not call.serial] == ["call-0"]
    assert len(store.calls(OTHER)) == 1


def test_later_is_done_with_the_next_update(store: Store) -> None:
    """A change left for later has been applied once the next update has returned, whatever became of that."""

    def label(state: KeyState, now: Now) -> Changed:
        return Changed(state._replace(label="later"))

    def fail(state: KeyState, now: Now) -> Changed:
        raise ZeroDivisionError

    store.later(KEY, label)
    with pytest.raises(ZeroDivisionError):
        store.update(OTHER, fail)
    assert store.read(KEY).label == "later"


def test_later_holds_up_nobody_else(store: Store) -> None:
    """A change left for later that cannot be made yet fails no update, and is made by one that comes when it can be."""
    possible = threading.Event()

    def label(state: KeyState, now: Now) -> Changed:
        if not possible.is_set():
            raise StoreUnavailableError("not yet")
        return Changed(state._replace(label="later"))

    store.later(KEY, label)
    assert store.update(OTHER, take).nonce
    assert not store.read(KEY).label
    possible.set()
    store.update(OTHER, take)
    assert store.read(KEY).label == "later"


def test_closed_store_is_of_no_use(store: Store) -> None:
    """After close, which may come twice, each use is an error that says so."""
    store.update(KEY, take)
    store.close()
    store.close()
    uses: list[Callable[[], object]] = [
        lambda: store.read(KEY),
        lambda: store.update(KEY, take),
        store.session,
        store.keys,
        store.calls,
    ]
    for use in uses:
        with pytest.raises(StoreUnavailableError, match="closed"):
            use()
