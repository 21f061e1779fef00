"""An order that is executed is never reported as not executed, whatever clocks and processes do."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import example, given
from hypothesis import strategies as st

from persistent_nonce import doubt
from persistent_nonce.clock import SECOND, Now
from tests.support.states import WALL, recorded

HOURS = st.sampled_from([-3_600, -7, 0, 0, 7, 3_600])
SECONDS = st.one_of(st.sampled_from([0, 1, 60, 119, 121, 300]), st.integers(0, 20_000))

SOON: Final[dict[str, Any]] = {
    "stopped": 0,
    "lasts": 0,
    "late": 60,
    "seen": True,
    "found": 0,
    "looked": 59,
    "slow": 0,
    "reboot": None,
    "steps": (0, 0, 0),
    "skew": 0,
}
LATER: Final = {**SOON, "late": 0, "looked": 7_000}


@given(
    stopped=SECONDS,
    lasts=st.integers(0, 60),
    late=st.integers(0, 60),
    seen=st.booleans(),
    found=SECONDS,
    looked=SECONDS,
    slow=st.integers(0, 60),
    reboot=st.none() | SECONDS,
    steps=st.tuples(HOURS, HOURS, HOURS),
    skew=st.integers(-100_000, 100_000),
)
@example(**SOON)  # executed after it was looked for
@example(**{**SOON, "stopped": 300})  # sent long after it began
@example(**{**SOON, "stopped": 300, "seen": False})  # and its process died
@example(**{**SOON, "steps": (0, 0, 3_600)})  # the clock was set ahead
@example(**{**SOON, "reboot": 10, "steps": (0, 0, 3_600)})
@example(**{**LATER, "steps": (3_600, 0, 0)})  # it was set back
@example(**{**LATER, "reboot": 10, "steps": (3_600, 0, 0)})
def test_an_executed_order_is_never_settled_as_not_executed(
    *,
    stopped: int,
    lasts: int,
    late: int,
    seen: bool,
    found: int,
    looked: int,
    slow: int,
    reboot: int | None,
    steps: tuple[int, int, int],
    skew: int,
) -> None:
    """A call sent at any time before its end and executed up to a minute later is executed or in doubt.

    Its process may have been stopped, have died unseen and be found much later; the clock steps by an hour between
    any two looks at it; the machine may reboot; the exchange's clock is another, and told late.
    """
    end = stopped + lasts  # in seconds after the start, by a clock that is right
    executed = stopped + late
    first = end + found  # somebody finds the process gone
    look = first + looked
    booted = None if reboot is None else end + reboot

    def time(moment: int, step: int) -> Now:
        wall = WALL + (moment + step) * SECOND
        if booted is not None and booted <= moment:
            return Now(wall, (moment - booted) * SECOND, "boot-2")
        return Now(wall, (1_000 + moment) * SECOND, "boot-1")

    call = recorded(now=time(0, steps[0]), took=end if seen else None)
    call = doubt.ended_by(call, time(first, steps[1]))
    now = time(look, steps[2])
    exchange = WALL + (look - slow + skew) * SECOND
    earliest = doubt.sent_after(call, now, exchange)
    opened = [WALL + (executed + skew) * SECOND] if executed <= look else []
    opened = [at for at in opened if at >= earliest]
    assert doubt.conclude(call, opened, 0, now) != "not_executed"
