"""What simulated processes do: calls through the gate, nonces without it, floors; and how all of it comes to rest."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Literal, NamedTuple

from persistent_nonce.calls import Call
from persistent_nonce.clock import SECOND, Now, nanoseconds
from persistent_nonce.errors import InvalidNonceError
from persistent_nonce.gate import CallGate
from persistent_nonce.recovery import rest
from persistent_nonce.state import Changed, KeyState, Outcome, fingerprint
from persistent_nonce.steps import do, pause
from tests.support.machine_exchange import Request
from tests.support.machine_ledger import HOLD, INTERVAL, RECOVERY, Sent, room
from tests.support.machine_runner import Killed
from tests.support.machine_world import KEYS, Actor, Process, World

__all__ = ["Order", "burst", "call", "raise_floor", "reserve", "settle"]

#: By how much a sleeper oversleeps while all comes to rest, in nanoseconds: looks are frequent.
_OVERSLEPT: Final = SECOND // 20


class Order(NamedTuple):
    """A call that somebody wants to make.

    Attributes:
        ends: as the exchange says, unless the nonce is refused; "unknown" is a reply that got lost.
        lasts: seconds until the reply.
        again: try again when the nonce is refused.
    """

    key: str = KEYS[0]
    priority: int = 0
    cost: int = 1
    timeout: float = 60.0
    durable: bool = False
    ends: Literal["ok", "error", "unknown", "not_sent"] = "ok"
    lasts: float = 0.0
    again: bool = False


def call(world: World, process: Process, order: Order) -> Actor:
    """Have a process make a call."""
    gate = CallGate(
        process.store,
        order.key,
        min_interval=INTERVAL / SECOND,
        rate=world.rate,
        timeout=order.timeout,
        hold_timeout=HOLD / SECOND,
        recovery=RECOVERY,
        unit=world.units[fingerprint(order.key)],
    )
    actor = Actor("call", process.name, order.priority, key=gate.key)
    wanted: dict[str, Any] = {
        "cost": order.cost,
        "priority": order.priority,
        "durable": order.durable,
    }

    async def steps() -> None:
        if not order.again:
            _wait(actor, order, excused=0)
            async with gate.call("Balance", **wanted) as one:
                await _body(world, actor, order, one)
            return
        excused = 0
        for attempt in gate.attempts("Balance", **wanted):
            actor.asked = world.steps
            _wait(actor, order, excused=excused)
            async with attempt as one:
                await _body(world, actor, order, one)
            excused = round(RECOVERY.wait * RECOVERY.attempts * SECOND)

    world.start(process, actor, steps())
    return actor


def _wait(actor: Actor, order: Order, *, excused: int) -> None:
    actor.patience = (nanoseconds(order.timeout), excused)
    actor.overdue = 0


async def _body(world: World, actor: Actor, order: Order, one: Call) -> None:
    """Use the turn, and note how that ended as this process sees it."""
    ledger, nonce = world.ledgers[actor.key], one.nonce
    actor.deadline, actor.in_body = None, True
    outcome: Outcome = "unknown"
    try:
        ledger.entered(actor, nonce, world.clock.mono(), world.steps)
        outcome = await _exchange(world, actor, order, one)
    except InvalidNonceError:
        outcome = "invalid_nonce"
        raise
    except Killed:
        outcome = "interrupted"
        raise
    finally:
        actor.in_body = False
        ledger.left(actor)
        ledger.sent[nonce] = Sent(actor.process, outcome, order.durable)


async def _exchange(world: World, actor: Actor, order: Order, one: Call) -> Outcome:
    """Send the request and take the reply."""
    ledger, exchange, clock = (
        world.ledgers[actor.key],
        world.exchanges[actor.key],
        world.clock,
    )
    if order.ends == "not_sent":
        one.not_sent()
        return "not_sent"
    until = ledger.inside[actor]
    request = Request(actor.name, one.nonce, order.cost, until, clock.name)
    await do(partial(exchange.leave, request))
    if order.lasts:
        await pause(order.lasts)
    if not await do(lambda: exchange.arrive(request, clock.mono(), clock.name)):
        ledger.refusals += 1
        actor.refused = True
        raise InvalidNonceError
    if order.ends == "unknown":
        raise ConnectionError
    one.settle(order.ends)
    return order.ends


def reserve(world: World, process: Process, key: str, count: int) -> Actor:
    """Have a process take nonces without the gate, at once."""
    provider = world.provider(process, key)
    actor = Actor("nonces", process.name, kind="nonce", key=provider.key)

    async def steps() -> range:
        values = await do(partial(provider.reserve, count))
        world.ledgers[actor.key].took(actor, values, world.steps)
        return values

    world.start(process, actor, steps())
    return actor


def burst(world: World, process: Process, key: str, count: int) -> Actor:
    """Have a process take nonces one after the other, each when it has the last."""
    provider = world.provider(process, key)
    actor = Actor("burst", process.name, kind="nonce", key=provider.key, bursts=True)

    def draw() -> int:
        # When it was asked for and when it was there, as exactly as can be.
        world.steps += 1
        actor.asked = world.steps
        value = provider.next()
        world.steps += 1
        world.ledgers[actor.key].took(actor, range(value, value + 1), world.steps)
        return value

    async def steps() -> list[int]:
        return [await do(draw) for _ in range(count)]

    world.start(process, actor, steps())
    return actor


def raise_floor(world: World, process: Process, key: str, floor: int) -> Actor:
    """Have a process set a floor."""
    provider = world.provider(process, key)
    actor = Actor("floor", process.name, kind="nonce", key=provider.key, floor=floor)

    async def steps() -> int:
        mark = await do(partial(provider.raise_floor, floor))
        world.ledgers[actor.key].raised(actor, mark, world.steps)
        return mark

    world.start(process, actor, steps())
    return actor


# --- how it all comes to rest


def settle(world: World) -> None:
    """Let a newcomer in while nobody else moves, then all go on and come to their end (I3, I7, I8)."""
    for process in world.processes:
        process.stopped = True
    for exchange in world.exchanges.values():
        exchange.capricious = 0
    world.pass_time(INTERVAL)
    used = [key for key in KEYS if world.ledgers[fingerprint(key)].used]
    for key in used:
        _newcomer(world, key)
    for process in world.processes:
        process.stopped = False
    _let_all_end(world)
    process = world.begin_process()
    for key in used:
        _newcomer(world, key)
        _check_rest(world, process, fingerprint(key))


def _let_all_end(world: World) -> None:
    """Let every procedure go on until none is left (I8)."""
    for _ in range(20_000):
        if not world.sleep():
            return
        for actor in world.able():
            if actor in world.moving():
                world.advance(actor)
        world.pass_time(_OVERSLEPT)
    raise AssertionError(f"never ends: {world.moving()} (I8)")


def _newcomer(world: World, key: str) -> None:
    """Let a new process make a call while nobody else moves."""
    process = world.begin_process()
    state = process.store.update(fingerprint(key), lambda state, now: Changed(state))
    if state.closed:
        _finish(world, raise_floor(world, process, key, state.nonce + 1))
    if (
        room(state, process.store.now()) < 10
    ):  # the clock is behind, and the lead used up
        world.step_clock(max(0, state.nonce * state.tick - world.clock.wall()))
    wait = _time_to_get_in(world, process.store.read(fingerprint(key)))
    order = Order(key, timeout=3_600, ends="not_sent")
    world.say(f"a newcomer to {key} has {wait / SECOND} s")
    _finish(world, call(world, process, order), wait)
    process.stopped = True


def _time_to_get_in(world: World, state: KeyState) -> int:
    """Return the ns after which a newcomer is in, while nobody else moves: the dead cost no time (I3, I7, I8)."""
    now = Now(world.clock.wall(), world.clock.mono(), "")
    alive = {process.store.name for process in world.processes}
    wait = INTERVAL + rest(state, now, 0) + SECOND // 2
    if state.running is not None and state.running.session in alive:
        wait += max(0, state.running.until - now.mono)
    if world.rate is not None:
        wait += nanoseconds(world.rate.every) * (world.rate.burst + 2)
    stopped = [call for call in state.queue if call.session in alive]
    return wait + (SECOND + SECOND // 2) * len(stopped)


def _finish(world: World, actor: Actor, most: int = 0) -> None:
    """Let one procedure alone come to its end, in its time and with few steps."""
    begun, tries = world.clock.mono(), 0
    while not actor.procedure.ended:
        if actor.procedure.due is not None:
            world.pass_time(max(_OVERSLEPT, actor.procedure.due - world.clock.mono()))
            tries = 0
        tries += 1
        assert tries < 30, f"{actor} does not pause (I7)"
        waited = world.clock.mono() - begun
        assert waited <= most, f"{actor} is not in after {waited / SECOND} s (I7, I8)"
        world.advance(actor)
    if actor.procedure.error is not None:
        raise actor.procedure.error


def _check_rest(world: World, process: Process, key: str) -> None:
    """Check that nothing is left in flight, and that every call is on record with its end."""
    state = process.store.read(key)
    alive = {one.store.name for one in world.processes}
    assert state.running is None, "a call is left in flight (I5)"
    assert not [c for c in state.queue if c.session in alive], "left in the queue"
    found = {one.nonce: one.outcome for one in process.store.calls(key, 100_000)}
    living = {one.name for one in world.processes}
    for nonce, sent in world.ledgers[key].sent.items():
        outcomes = {sent.outcome}
        if sent.process not in living:
            outcomes |= {"interrupted", "unknown"}
        assert found.get(nonce) in outcomes, f"{nonce}: {found.get(nonce)}, {sent} (I3)"
