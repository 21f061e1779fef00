"""How often the oldest waiting call is passed by, over all schedules of arrivals."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from persistent_nonce import rules
from persistent_nonce.order import PATIENCE
from persistent_nonce.state import KeyState, Rate, Recovery
from tests.support.states import HOLD, at, fresh, waiting

#: Arrivals before each step, as priority and cost; how long the step lasts; who asks first.
ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0, 10, 20, 20, 99]), st.integers(0, 2)), max_size=3
)
STEPS = st.tuples(ARRIVALS, st.sampled_from([0.0, 0.2, 0.9]), st.randoms())
SCHEDULES = st.lists(STEPS, min_size=5, max_size=60)


@given(SCHEDULES, st.sampled_from([None, Rate(0.5, 4), Rate(3.0, 14)]))
def test_the_oldest_is_passed_by_at_most_ten(
    schedule: list[tuple[list[tuple[int, int]], float, Random]],
    rate: Rate | None,
) -> None:
    """The oldest call that lets no turn pass is passed by no more than 10 that spend, or while it could start (I7)."""
    state: KeyState = fresh("us", rate=rate, interval=0.0)
    passed: dict[str, int] = {}  # by id, in the order of arrival
    time, count = 0.0, 0
    for arrivals, length, random in schedule:
        for priority, cost in arrivals:
            count += 1
            call = waiting(
                f"{count}", session=f"S{count}", cost=cost, priority=priority
            )
            state = rules.join(state, at(time), call)
            passed[call.id] = 0
        ids = list(passed)
        random.shuffle(ids)
        for id in ids:
            now = at(time)
            oldest = next(iter(passed))
            first = rules.mine(state, oldest)
            assert first is not None
            before = state
            state = rules.admit(state, now, id, hold=HOLD).state
            if state.running is None:
                continue
            spent = min(first.cost, state.running.cost or first.cost)
            alike = first._replace(cost=spent)
            could = rules.ready_at(before, now, alike) <= now.mono
            del passed[id]
            still = rules.mine(state, oldest)
            if still and could and not still.late:  # else it let its turn pass
                passed[oldest] += 1
                assert passed[oldest] <= PATIENCE
            state = rules.finish(state, now, state.running, "ok", Recovery()).state
            break
        time += length
    for _ in range(len(passed)):  # and everybody gets in at last
        time += 10.0
        for id in list(passed):
            state = rules.admit(state, at(time), id, hold=HOLD).state
            if state.running is not None:
                del passed[id]
                state = rules.finish(
                    state, at(time), state.running, "ok", Recovery()
                ).state
                break
    assert not passed
