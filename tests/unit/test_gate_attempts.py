"""The attempts of a call whose nonce is refused: how many, how far apart, and what all others learn of it."""

from __future__ import annotations

from typing import Any

import pytest

from persistent_nonce import CallGate, Recovery, recovery
from persistent_nonce.clock import SECOND
from persistent_nonce.errors import InvalidNonceError, KeyClosedError, LockedOutError
from tests.support import stepped
from tests.support.simulated import Hands
from tests.support.stepped import (
    KEY,
    BoomError,
    Process,
    Spied,
    change,
    outcomes,
    state_of,
)

clock, store, gate = stepped.clock, stepped.store, stepped.gate


def refuse_all(gate: CallGate, **options: Any) -> None:
    """Have every attempt refused, which ends with an error."""
    for attempt in gate.attempts("Balance", **options):
        with attempt:
            raise InvalidNonceError


def test_an_attempt_that_succeeds_is_the_last(gate: CallGate, store: Spied) -> None:
    """Without a refusal there is one attempt."""
    made = 0
    for attempt in gate.attempts("Balance"):
        with attempt:
            made += 1
    assert made == 1
    assert outcomes(store) == ["ok"]


def test_an_attempt_after_a_refusal(
    gate: CallGate, store: Spied, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused nonce is kept from the caller, jumps 60 s ahead for all, and is tried again after 2 s (design §8)."""
    nonces, begin = [], clock.mono()
    for attempt in gate.attempts("Balance"):
        with attempt as call:
            nonces.append(call.nonce)
            if len(nonces) == 1:
                raise InvalidNonceError
    assert nonces[1] - nonces[0] == pytest.approx(60_000, abs=2)
    assert clock.mono() - begin == pytest.approx(2 * SECOND, abs=1_000)
    assert outcomes(store) == ["invalid_nonce", "ok"]
    assert state_of(store).refusals == 0
    for said in (f"nonce {nonces[0]} refused, 1 in a row", "jumps to", "2.0 s"):
        assert said in caplog.text
    assert KEY not in caplog.text


def test_attempts_are_bounded(gate: CallGate, store: Spied, clock: Hands) -> None:
    """Three refusals, 2 s and 30 s between them, close the key; the last error says why (I10)."""
    begin = clock.mono()
    with pytest.raises(InvalidNonceError) as raised:
        refuse_all(gate, timeout=1)  # back-offs are not charged
    assert clock.mono() - begin == pytest.approx(32 * SECOND, abs=10_000)
    assert "attempt 3 of 3" in str(raised.value)
    assert raised.value.hint == state_of(store).diagnosis
    assert isinstance(raised.value.__cause__, InvalidNonceError)
    assert outcomes(store) == ["invalid_nonce"] * 3


def test_a_closed_key_fails_at_once(gate: CallGate, store: Spied, clock: Hands) -> None:
    """Nothing is sent with a closed key, neither new calls nor those that wait, until it is opened again."""
    with pytest.raises(InvalidNonceError):
        refuse_all(gate)
    begin, mark = clock.mono(), state_of(store).nonce
    with pytest.raises(KeyClosedError, match="in a row were refused"):
        gate.call("Balance").__enter__()
    with pytest.raises(KeyClosedError):
        refuse_all(gate)
    assert (clock.mono(), state_of(store).nonce) == (begin, mark)
    assert state_of(store).queue == ()
    assert len(store.calls()) == 3


def test_who_waits_learns_that_the_key_was_closed(store: Spied, clock: Hands) -> None:
    """A waiting call fails at its next look."""
    holder = Process(store, recovery=Recovery(attempts=1))
    call, process = holder.wants(), Process(store)
    waiting = process.wants()
    call.leave("invalid_nonce")
    with pytest.raises(KeyClosedError):
        waiting.look()
    assert process.clean
    assert state_of(store).queue == ()


def test_other_errors_end_the_attempts(gate: CallGate, store: Spied) -> None:
    """Only a refused nonce is known not to have been executed."""
    made = 0

    def body() -> None:
        nonlocal made
        for attempt in gate.attempts("AddOrder"):
            with attempt:
                made += 1
                raise BoomError

    with pytest.raises(BoomError):
        body()
    assert made == 1
    assert outcomes(store) == ["unknown"]


def test_a_refusal_without_an_exception(gate: CallGate, store: Spied) -> None:
    """A client with the reply in hand says so and raises nothing; it gets its attempts and no error (design §8)."""
    made = 0
    for attempt in gate.attempts("Balance"):
        with attempt as call:
            made += 1
            call.settle("invalid_nonce")
    assert made == 3
    assert state_of(store).closed


def test_a_loop_that_never_enters(gate: CallGate) -> None:
    """An attempt that was not made is not repeated for ever."""
    assert len(list(gate.attempts("Balance"))) == 1


def test_stored_attempts_are_followed(store: Spied) -> None:
    """A gate without an opinion makes as many attempts as the key's own setting says."""
    mine = CallGate(store, KEY, recovery=Recovery(attempts=5, wait=1))
    with mine.call("Balance"):
        pass
    made = 0
    for attempt in CallGate(store, KEY).attempts("Balance"):
        with attempt as call:
            made += 1
            call.settle("invalid_nonce")
    assert made == 5


def test_a_refusal_is_shared(store: Spied, clock: Hands) -> None:
    """All processes wait out the back-off of one refusal, but for urgent calls; there is one jump."""
    one, two = Process(store), Process(store)
    call = one.wants()
    other = two.wants()
    call.leave("invalid_nonce")
    mark = state_of(store).nonce
    clock.forward(1.9)
    assert not other.look()
    urgent = Process(store).wants("CancelOrder", priority=20)
    assert urgent.inside
    urgent.leave("error")
    clock.forward(0.2)
    assert other.look()
    assert other.call.nonce == mark + 2


def test_the_own_back_off_is_not_charged(store: Spied, clock: Hands) -> None:
    """The wait after a refusal is not taken from the next attempt's timeout; a lockout that others set is (I8)."""
    gate = CallGate(store, KEY, timeout=1)
    attempts = gate.attempts("Balance")
    with next(attempts) as call:
        call.settle("invalid_nonce")
    change(store, lambda s, now: recovery.lockout(s, now, 900 * SECOND, "lockout"))
    begin = clock.mono()
    with pytest.raises(LockedOutError, match="lockout"):
        next(attempts).__enter__()
    assert clock.mono() == begin
