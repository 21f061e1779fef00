"""What the orders at the exchange say of a call in doubt, by clocks that may be wrong."""

from __future__ import annotations

import pytest

from persistent_nonce import doubt
from persistent_nonce.clock import SECOND, Now
from persistent_nonce.doubt import Doubt
from persistent_nonce.state import CallRecord, Outcome
from tests.support.states import WALL, at, recorded

HOUR = 3_600.0
DAY = 86_400 * SECOND

#: The exchange's clock at the tests' beginning: it may show anything, and does not step.
EXCHANGE = WALL + 7 * SECOND


def after_a_reboot(seconds: float, *, up: float, step: float = 0.0) -> Now:
    """Return the time `seconds` after the tests' beginning, in a boot that began `up` seconds before."""
    return at(seconds, step=step, boot="boot-2")._replace(mono=round(up * SECOND))


def ids(calls: list[CallRecord]) -> list[str]:
    """Return the ids of records."""
    return [call.id for call in calls]


# --- references


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("cl_ord_id=A1", ("cl_ord_id", "A1")),
        ("userref=-7", ("userref", "-7")),
        ("cl_ord_id=a=b", ("cl_ord_id", "a=b")),
        ("something else", ("", "")),
        ("", ("", "")),
    ],
)
def test_split(reference: str, parts: tuple[str, str]) -> None:
    """A reference has a name and a value, which may hold the sign between them; other text has neither."""
    assert doubt.split(reference) == parts


@pytest.mark.parametrize(
    ("reference", "cl_ord_id", "userref"),
    [
        ("cl_ord_id=7", "7", None),
        ("userref=-7", None, -7),
        ("other=7", None, None),
        ("", None, None),
    ],
)
def test_what_callers_are_told(
    reference: str, cl_ord_id: str | None, userref: int | None
) -> None:
    """A doubt names the call, its start as Unix time, and the caller's own id."""
    call = recorded(nonce=5, reference=reference, outcome="interrupted")
    assert doubt.doubt_of(call) == Doubt(
        id="a",
        method="AddOrder",
        nonce=5,
        at=1_780_000_000.0,
        outcome="interrupted",
        cl_ord_id=cl_ord_id,
        userref=userref,
    )


# --- executed, not executed, or neither


@pytest.mark.parametrize(
    ("orders", "others", "outcome"),
    [
        (1, 0, "executed"),
        (2, 1, "executed"),
        (1, 1, None),
        (1, 2, None),
        (2, 2, None),
        (0, 0, "not_executed"),
        (0, 3, "not_executed"),
    ],
)
def test_orders_are_counted(orders: int, others: int, outcome: str | None) -> None:
    """Long after: more orders than the others can have placed tell that it was executed, none that it was not."""
    opened = [EXCHANGE + n for n in range(orders)]
    assert doubt.conclude(recorded(), opened, others, at(HOUR)) == outcome


@pytest.mark.parametrize("took", [0.0, 0.5, 30.0, 600.0])
def test_an_absent_order_is_waited_for(took: float) -> None:
    """Without an order, a call stays in doubt until two minutes after its end: it may have been sent as late."""
    call = recorded(took=took)
    assert doubt.conclude(call, [], 0, at(took + 119.9)) is None
    assert doubt.conclude(call, [], 0, at(took + 120)) == "not_executed"


def test_an_order_is_believed_at_once() -> None:
    """An order that is there needs no waiting."""
    assert doubt.conclude(recorded(), [EXCHANGE], 0, at(0.1)) == "executed"


def test_an_end_that_nobody_saw() -> None:
    """Within one boot nothing says when a lost call ended, until its process was found to be gone."""
    call = recorded(took=None)
    assert doubt.conclude(call, [], 0, at(HOUR)) is None
    found = doubt.ended_by(call, at(HOUR))
    assert found.took == 3_600 * SECOND
    assert doubt.conclude(found, [], 0, at(HOUR + 119)) is None
    assert doubt.conclude(found, [], 0, at(HOUR + 120)) == "not_executed"


def test_ended_by_adds_only_what_is_unknown() -> None:
    """An end that was seen stays as it is, and a reboot has ended the call by itself."""
    seen, lost = recorded(took=3.0), recorded(took=None)
    assert doubt.ended_by(seen, at(60)) is seen
    assert doubt.ended_by(lost, after_a_reboot(60, up=30)) is lost
    assert doubt.ended_by(lost, at(-5)).took == 0


@pytest.mark.parametrize("step", [-HOUR, HOUR])
@pytest.mark.parametrize(("seconds", "late"), [(119, False), (120 + HOUR, True)])
def test_a_clock_step_makes_no_call_older(
    step: float, seconds: float, late: bool
) -> None:
    """With the clock an hour ahead or back, no call is settled within two minutes, and each is in the end."""
    now = at(seconds, step=step)
    expected = "not_executed" if late else None
    assert doubt.conclude(recorded(), [], 0, now) == expected


@pytest.mark.parametrize(
    ("seconds", "up", "outcome"),
    [
        (300, 119.0, None),
        (300, 120.0, "not_executed"),
        (119, 400.0, None),
        (120, 400.0, "not_executed"),
    ],
)
def test_another_boot(seconds: float, up: float, outcome: str | None) -> None:
    """After a reboot a call is as old as the uptime or as the wall clock says, whichever is less."""
    now = after_a_reboot(seconds, up=up)
    assert doubt.conclude(recorded(took=None), [], 0, now) == outcome


def test_a_record_without_a_boot() -> None:
    """A record of which no boot is known is not taken for one of this boot, also where this one has no name."""
    call = recorded()._replace(boot="")
    now = at(HOUR)._replace(boot="", mono=119 * SECOND)
    assert doubt.conclude(call, [], 0, now) is None


# --- since when its order may have been opened


def earliest(call: CallRecord, now: Now, true: float) -> float:
    """Return how many seconds after the tests' beginning an order is looked for, `true` seconds after that."""
    exchange = EXCHANGE + round(true * SECOND)
    return (doubt.sent_after(call, now, exchange) - EXCHANGE) / SECOND


def test_orders_since_just_before_the_call() -> None:
    """Where both clocks agree, orders from ten seconds before the call on are looked at."""
    assert earliest(recorded(), at(50), 50) == -10
    assert earliest(recorded(), at(50, step=9), 50) == -19
    assert earliest(recorded(), at(50, step=-9), 50) == -10


@pytest.mark.parametrize("step", [-HOUR, -11, 11, HOUR])
def test_orders_since_a_day_where_the_clocks_disagree(step: float) -> None:
    """A step within the boot, or a suspended machine, makes the orders of a day before count too."""
    assert earliest(recorded(), at(50, step=step), 50) <= -86_400


@pytest.mark.parametrize("step", [-HOUR, 0, HOUR])
def test_orders_since_a_day_after_a_reboot(step: float) -> None:
    """After a reboot nobody knows how far the clock was wrong at the call: an order opened then is never left out."""
    now = after_a_reboot(2 * HOUR, up=600, step=step)
    assert earliest(recorded(took=None), now, 2 * HOUR) <= -82_800


def test_a_call_from_the_future() -> None:
    """A record dated after now is looked up from before now on."""
    assert earliest(recorded(), after_a_reboot(-HOUR, up=600), -HOUR) < -HOUR


# --- others that may have placed the order


def test_the_same_id_used_twice() -> None:
    """Later calls with the same id are rivals, the call itself and other ids are none."""
    call = recorded("a", nonce=5)
    calls = [
        call,
        recorded("later", nonce=6, now=at(HOUR), outcome="ok"),
        recorded("another id", nonce=7, now=at(1), reference="cl_ord_id=A2"),
        recorded("another name", nonce=8, now=at(1), reference="userref=1"),
    ]
    assert ids(doubt.rivals(call, calls, at(2 * HOUR))) == ["later"]


@pytest.mark.parametrize(
    ("outcome", "rival"),
    [
        ("ok", True),
        ("unknown", True),
        ("interrupted", True),
        ("in_flight", True),
        ("executed", True),
        ("error", False),
        ("invalid_nonce", False),
        ("not_sent", False),
        ("not_executed", False),
    ],
)
def test_what_placed_nothing_is_no_rival(outcome: Outcome, rival: bool) -> None:
    """Only a call that may have placed an order counts."""
    other = recorded("b", nonce=6, outcome=outcome)
    assert bool(doubt.rivals(recorded(nonce=5), [other], at(9))) == rival


@pytest.mark.parametrize(
    ("method", "rival"),
    [("AddOrder", True), ("EditOrder", True), ("CancelOrder", False)],
)
def test_methods_that_place(method: str, rival: bool) -> None:
    """An edited order is a new one of the same id; a cancelled one is not."""
    other = recorded("b", nonce=6, method=method, outcome="ok")
    assert bool(doubt.rivals(recorded(nonce=5), [other], at(9))) == rival


@pytest.mark.parametrize(
    ("before", "took", "rival"),
    [
        (130, 0, True),
        (139, 0, True),
        (141, 0, False),
        (200, 61, True),
        (HOUR, 0, False),
    ],
)
def test_an_earlier_call_whose_order_may_come_late(
    before: float, took: float, rival: bool
) -> None:
    """A call that ended up to two minutes before may be executed after this one was sent."""
    other = recorded("b", nonce=4, now=at(-before), took=took, outcome="unknown")
    assert bool(doubt.rivals(recorded(nonce=5), [other], at(9))) == rival


def test_an_earlier_call_dated_by_another_clock() -> None:
    """A step between two calls hides no rival, neither within a boot nor over a reboot."""
    call = recorded("a", nonce=5, now=at(10, step=HOUR))
    now = at(20, step=HOUR)
    same = recorded("same boot", nonce=4, now=at(5), outcome="ok")
    other = recorded("other boot", nonce=3, now=at(5, boot="boot-0"), outcome="ok")
    old = recorded("old", nonce=2, now=at(-200_000, boot="boot-0"), outcome="ok")
    assert ids(doubt.rivals(call, [same, other, old], now)) == [
        "same boot",
        "other boot",
    ]


def test_as_many_rivals_as_orders_are_looked_at() -> None:
    """Where the orders of a day before count, so do the calls of that day."""
    call = recorded("a", nonce=5, took=None)
    other = recorded("b", nonce=4, now=at(-HOUR), outcome="ok")
    now = after_a_reboot(HOUR, up=600)
    assert doubt.sent_after(call, now, now.wall) < other.at
    assert ids(doubt.rivals(call, [other], now)) == ["b"]


def test_forgotten_rivals() -> None:
    """If records of the time were dropped, a userref may have had rivals; a client order id is one order's own."""
    call = recorded("a", nonce=5, reference="userref=7")
    kept = recorded("kept", nonce=9, now=at(60), outcome="ok", serial=50)
    older = recorded("older", nonce=2, now=at(-HOUR), outcome="ok", serial=2)
    first = recorded("first", nonce=6, now=at(30), outcome="ok", serial=1)
    now = at(HOUR)
    assert not doubt.remembered(call, [call, kept], now)
    assert doubt.remembered(call, [call, kept, older], now)
    assert doubt.remembered(call, [call, kept, first], now)
    assert doubt.remembered(call, [call], now)
    assert doubt.remembered(recorded("b"), [kept], now)
