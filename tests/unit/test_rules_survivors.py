"""What a general mutation run over the pure functions found untested: each test here fails for one of its changes."""

from __future__ import annotations

from persistent_nonce import order, recovery, rules
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.state import BackOff, KeyState, Rate, Recovery, Turn
from tests.support.states import BOOT, HOLD, WALL, at, fresh, running, waiting


def queued(*ids: str, state: KeyState | None = None) -> KeyState:
    """Return a state in whose queue the calls `ids` stand, each of a session of its own."""
    state = state or fresh()
    for id in ids:
        state = rules.join(state, at(), waiting(id, session=id))
    return state


def begun(*ids: str) -> KeyState:
    """Return a state in which the first of `ids` runs and the others wait."""
    return rules.admit(queued(*ids), at(), ids[0], hold=HOLD).state


# --- rules


def test_a_counter_that_drains_at_once_is_never_full() -> None:
    """After a reboot a counter without a time to drain makes nobody wait (I6)."""
    state = fresh(rate=Rate(0.0, 14))
    now = at(boot="boot-2")
    assert rules.wake(state, now).state.tat == now.mono


def test_a_counter_that_drains_at_once_is_cut_to_now() -> None:
    """A counter without a time to drain that stands in the future is cut, however little it is ahead (I8)."""
    state = fresh(rate=Rate(0.0, 14))._replace(tat=at().mono + 5)
    assert rules.clamp(state, at()).tat == at().mono


def test_each_monotonic_time_is_cut_by_itself() -> None:
    """A start in the future is cut though the counter is right, and the other way round (I8)."""
    state = fresh(rate=Rate(1.0, 3))._replace(started=at().mono, tat=at().mono)
    assert rules.clamp(state._replace(started=at(90).mono), at()) == state
    full = state._replace(tat=at(3).mono)
    assert rules.clamp(state._replace(tat=at(90).mono), at()) == full


def test_a_counter_that_was_called_full_stays_so() -> None:
    """What a reply said of the counter outlasts every look at the clock during the back-off (I6)."""
    asked = BackOff("limited", 10 * SECOND, full=True)
    state = recovery.back_off(fresh(rate=Rate(3.0, 14)), at(), asked)
    assert rules.clamp(state, at(1)) == state


def test_the_first_call_of_a_key_waits_for_nothing() -> None:
    """Where no call has started there is no interval to wait for, also right after the boot (I6)."""
    assert rules.ready_at(fresh(), Now(WALL, 0, BOOT), waiting()) == 0


def test_a_turn_ends_with_the_queue() -> None:
    """Where nobody waits it is nobody's turn."""
    state = queued("a")
    assert state.turn == Turn("a", at().mono)
    assert rules.leave(state, at(1), "a").state.turn is None


def test_a_turn_that_begins_at_this_very_moment_stays() -> None:
    """Only a turn that has not begun is looked at again: a look at its beginning does not lengthen its second (I7)."""
    turn = Turn("a", at(1).mono)
    state = queued("a")._replace(started=at(1.8).mono, turn=turn)
    assert rules.join(state, at(2), waiting("b", session="b")).turn == turn


def test_a_head_that_looks_late_is_not_passed_over_by_itself() -> None:
    """Who comes back before anybody noticed is still the head, and starts (I7)."""
    state = queued("a1", "b", "a2")
    state = rules.admit(state, at(5), "a1", hold=HOLD).state
    assert state.running is not None
    assert state.running.id == "a1"
    assert not any(call.late for call in state.queue)


def shielded() -> KeyState:
    """Return a state whose head let 0.9 s of its turn pass before an urgent call came, which has just ended."""
    state = rules.join(queued("head", "next"), at(0.9), waiting("u", priority=20))
    state = rules.admit(state, at(0.9), "u", hold=HOLD).state
    return rules.finish(state, at(0.9), running("u"), "ok", Recovery()).state


def test_a_head_that_moves_has_its_turn_anew() -> None:
    """It alone is changed, and its second begins when it could start, not before (I7)."""
    state = shielded()
    head, following = state.queue
    assert (head.passed, state.turn) == (
        9 * SECOND // 10,
        Turn("head", at(0.2).mono),  # 0.9 s before it could start
    )
    moved = rules.admit(state, at(1), "head", hold=HOLD).state
    assert moved.queue == (head._replace(passed=0), following)
    assert moved.turn == Turn("head", at(1.1).mono)
    unknown = state._replace(turn=None)
    assert rules.admit(unknown, at(1), "head", hold=HOLD).state == moved


def test_who_comes_back_leaves_the_next_its_second() -> None:
    """What the next one had let pass of its turn is kept when the head moves again (I7)."""
    state = shielded()._replace(turn=Turn("next", at(0.4).mono))
    state = rules.admit(state, at(1), "head", hold=HOLD).state
    assert [call.passed for call in state.queue] == [0, SECOND * 6 // 10]


def test_no_urgent_calls_shield_an_absent_head() -> None:
    """Whatever urgent calls come between, others wait in vain for an absent head for one second in all (I7).

    Here they come in pairs: the first after the head could have started for 50 ms, the second before it could again.
    """
    state, time = queued("absent", "live", state=fresh()), 0.05
    for number in range(25):
        state = rules.admit(state, at(time - 0.001), "live", hold=HOLD).state
        if state.running is not None:
            return
        for start in (time, time + 0.2):
            id = f"urgent {number} at {start}"
            call = waiting(id, session="u", priority=20)
            state = rules.join(state, at(max(time, start - 0.1)), call)
            state = rules.admit(state, at(start), id, hold=HOLD).state
            assert state.running is not None
            end = rules.finish(state, at(start), state.running, "ok", Recovery())
            state = order.forgive(end.state)  # or it would soon go first as the oldest
        time += 0.45
    raise AssertionError("it never started")


def test_a_head_that_is_passed_over_has_let_nothing_pass() -> None:
    """Whoever is late begins from nothing: its next turn is a whole second (I7)."""
    state = rules.admit(shielded(), at(1.3), "next", hold=HOLD).state
    (head,) = state.queue
    assert (head.late, head.passed) == (True, 0)


def test_a_call_that_was_never_sent_took_no_time() -> None:
    """Who leaves at once after its admission was not in flight."""
    (record,) = rules.leave(begun("a"), at(60), "a").records
    assert (record.outcome, record.took) == ("not_sent", 0)


def test_a_call_keeps_its_reference() -> None:
    """The caller's own id goes from the queue into the running call, and with it into its record."""
    state = rules.join(fresh(), at(), waiting("a")._replace(reference="userref=7"))
    state, started = rules.admit(state, at(), "a", hold=HOLD, durable=True)
    assert state.running is not None
    assert {state.running.reference, *(r.reference for r in started)} == {"userref=7"}


def test_nothing_is_on_record_that_nobody_said() -> None:
    """A call that ends without a word of the exchange, or dies, has none on record."""
    state = begun("a", "b")
    (ended,) = rules.finish(state, at(1), running("a"), "ok", Recovery()).records
    (died,) = rules.prune(state, at(1), frozenset({"a"})).records
    assert (ended.said, died.said) == ("", "")


def test_the_outlook_beside_a_call_past_its_time() -> None:
    """A waiter acts as soon as the running call is past its time, not a nanosecond sooner, and from then on (I8)."""
    state = begun("a", "b")
    for late, left in ((0, 1), (1, 0), (2, 0)):
        now = at(300)._replace(mono=at(300).mono + late)
        assert rules.outlook(state, now, "b") == left


def test_the_outlook_where_nobody_has_the_turn() -> None:
    """A turn that is not written down has to be: whoever looks does it at once (I7)."""
    state = queued("a", "b")._replace(turn=None)
    assert rules.outlook(state, at(), "b") == 0


def test_the_outlook_behind_a_head_whose_turn_is_to_come() -> None:
    """Who is behind the head has nothing to do before the head's second is over (I7)."""
    state = begun("a", "b", "c")
    state = rules.finish(
        state, at(0.1), running("a"), "ok", Recovery()
    ).state  # b may start at 0.2
    assert rules.outlook(state, at(0.1), "c") == SECOND + SECOND // 10


# --- recovery


def test_the_first_of_two_equal_back_offs_stays() -> None:
    """A back-off that ends at the same moment as the one that is set changes nothing, neither reason nor exemption."""
    state = recovery.lockout(fresh(), at(), 5 * SECOND, "first", exempt=True)
    assert recovery.lockout(state, at(), 5 * SECOND, "second") is state


def test_a_back_off_of_nothing_is_none() -> None:
    """A reply that asks for no time stops nobody, however long such a pause might grow, and the counter is full now."""
    asked = BackOff("nothing", 0, most=SECOND, full=True)
    state = recovery.back_off(fresh(rate=Rate(3.0, 14)), at(), asked)
    assert recovery.rest(state, at(), 0) == 0
    assert state.tat == at().mono + 14 * 3 * SECOND


def test_a_jump_that_ended_at_a_nonce_came_before_it() -> None:
    """A refused nonce that is the mark of the last jump itself was not yet answered by a jump (I10)."""
    state = fresh()._replace(nonce=7_000, jumped_at=7_000)
    state = recovery.refuse(state, at(), running(nonce=7_000), Recovery())
    assert state.jumped_at > 7_000


def test_the_diagnosis() -> None:
    """It tells in words how many, which nonce, how far ahead of the clock, and what can be done."""
    state = fresh("ms")._replace(attempts=1)
    nonce = at(90).wall // 10**6
    state = recovery.refuse(state, at(), running(nonce=nonce), Recovery())
    assert state.diagnosis == (
        f"1 nonces in a row were refused; the last was {nonce} in ms, 90 s ahead of the clock. Another program "
        "has used this key with nonces still further ahead, probably in a finer unit (us, 10ns, ns): stop it, or "
        "give it a key of its own; then set-unit to the unit it counts in, or raise-floor above its nonces, or "
        "create a new key"
    )


def test_the_diagnosis_after_one_jump() -> None:
    """From the second refusal on it tells of the jump that did not help."""
    state = fresh("ms")._replace(attempts=2)
    state = recovery.refuse(state, at(), running(nonce=5), Recovery())
    jumped = state.jumped_at
    state = recovery.refuse(state, at(3), running(nonce=jumped + 1), Recovery())
    assert f"refused, also after a jump to {jumped}; the last" in state.diagnosis


def test_the_diagnosis_in_the_finest_unit() -> None:
    """Where there is no finer unit none is suspected, nor named as the way out."""
    state = fresh("ns")._replace(attempts=1)
    state = recovery.refuse(state, at(), running(nonce=at().wall), Recovery())
    assert "finer" not in state.diagnosis
    way_out = "key of its own; then raise-floor above its nonces, or create a new key"
    assert state.diagnosis.endswith(way_out)
