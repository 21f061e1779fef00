"""The commands that change a key: each applies one pure rule, in one transaction of the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Final

import click

from persistent_nonce import kraken, nonces, settings
from persistent_nonce.arguments import seconds_argument
from persistent_nonce.clock import Now, nanoseconds
from persistent_nonce.commands.access import find_key, open_writer
from persistent_nonce.commands.options import as_json, chosen, database, emit
from persistent_nonce.state import UNITS, Changed, KeyState, Rate, Recovery

__all__ = ["COMMANDS"]

#: In place of a counter: drains at once.
_NO_COUNTER: Final = Rate(0.0, 1_000_000, "none")

_TIERS: Final = (*kraken.TIERS, "none")


def _apply(
    given: str,
    rule: Callable[[KeyState, Now], KeyState],
    *,
    as_json: bool,
    new: bool = True,
) -> None:
    """Change a key, which may be a `new` one, and print what came of it."""
    key = find_key(chosen(), given, new=new)
    with open_writer(chosen()) as store:
        state = store.update(key, lambda s, now: Changed(rule(s, now)), durable=True)
        now, path = store.now(), store.path
    from persistent_nonce.commands import view  # noqa: PLC0415 - rich is slow to load

    emit(
        partial(view.states_data, [state], now, path),
        partial(view.states_text, [state], now, path),
        as_json=as_json,
    )


@click.command("next")
@click.argument("key")
@as_json
@database
def next_(key: str, *, as_json: bool) -> None:
    """Take the next nonce of KEY and print it.

    For a request made by hand while no program of the key makes calls: it does not wait for a call in flight.
    """
    found = find_key(chosen(), key)
    with open_writer(chosen()) as store:
        state = store.update(found, lambda s, now: Changed(nonces.issue(s, now)))
    nonce = str(state.nonce)
    click.echo(json.dumps({"key": found, "nonce": nonce}) if as_json else nonce)


@click.command("raise-floor")
@click.argument("key")
@click.argument("value", type=int)
@as_json
@database
def raise_floor(key: str, value: int, *, as_json: bool) -> None:
    """Let every further nonce of KEY be greater than VALUE.

    Nothing is ever lowered. VALUE is in the key's unit. A mark that moves opens a closed key. A key that was never used
    is named by its whole fingerprint, which this prints:

    \b
        printf %s "$API_KEY" | sha256sum | cut -c 1-16
    """  # noqa: D301 - click looks for the backspace
    _apply(key, lambda s, now: nonces.raise_floor(s, now, value), as_json=as_json)


@click.command("set-unit")
@click.argument("key")
@click.argument("unit", type=click.Choice(list(UNITS)), metavar="UNIT")
@as_json
@database
def set_unit(key: str, unit: str, *, as_json: bool) -> None:
    """Count the nonces of KEY in the finer UNIT from here on.

    UNIT is s, ms, us, 10ns or ns; it holds for all programs of the key. Opens a closed key. There is no way back:
    nonces in a coarser unit would be lower.
    """
    _apply(key, lambda s, now: nonces.set_unit(s, now, unit), as_json=as_json)


@click.command("set-tier")
@click.argument("key")
@click.argument("tier", type=click.Choice(_TIERS), required=False)
@click.option(
    "--rate",
    type=(float, int),
    metavar="EVERY BURST",
    help="In place of a tier: BURST calls at once, then one every EVERY seconds.",
)
@click.option(
    "--headroom",
    type=int,
    metavar="N",
    help="Leave N of the tier's calls to programs outside this library; else 1.",
)
@click.option(
    "--min-interval",
    type=float,
    metavar="SECONDS",
    help="Between the starts of two calls.",
)
@click.option(
    "--attempts",
    type=int,
    metavar="N",
    help="Refused nonces in a row after which the key is closed.",
)
@click.option(
    "--max-lead",
    type=float,
    metavar="SECONDS",
    help="How far nonces may run ahead of the clock.",
)
@click.option(
    "--greatest",
    type=int,
    metavar="N",
    help="The greatest nonce that the exchange takes.",
)
@as_json
@database
def set_tier(
    key: str,
    tier: str | None,
    *,
    rate: tuple[float, int] | None,
    headroom: int | None,
    min_interval: float | None,
    attempts: int | None,
    max_lead: float | None,
    greatest: int | None,
    as_json: bool,
) -> None:
    """Change the pace of KEY, for all its programs.

    TIER is starter, intermediate or pro, or none for no call counter; without it the counter stays as it is. A program
    that names another pace than the stored one is refused until it leaves that out, or names the new one.
    """
    if rate is not None and tier is not None:
        raise click.UsageError("TIER and --rate exclude each other.")
    if headroom is not None and tier in (None, "none"):
        raise click.UsageError("--headroom is that of a TIER.")
    pace = None if rate is None else Rate(*rate)
    if tier == "none":
        pace = _NO_COUNTER
    elif tier is not None:
        pace = kraken.rate(tier, *() if headroom is None else (headroom,))
    wanted = (pace, min_interval, attempts, max_lead, greatest)
    if all(value is None for value in wanted):
        raise click.UsageError("Name a TIER, or what else is to change.")
    change = partial(
        settings.set_tier,
        rate=pace,
        min_interval=_given("--min-interval", min_interval),
        attempts=None if attempts is None else Recovery(attempts=attempts).attempts,
        max_lead=_given("--max-lead", max_lead),
        greatest=None if greatest is None else Recovery(greatest=greatest).greatest,
    )
    _apply(key, change, as_json=as_json)


def _given(option: str, value: float | None) -> int | None:
    return None if value is None else nanoseconds(seconds_argument(option, value))


@click.command()
@click.argument("key")
@as_json
@database
def reopen(key: str, *, as_json: bool) -> None:
    """Open KEY again after refused nonces closed it.

    Look at the diagnosis in `show` first: while another program shuts this one out, raise-floor or a new key helps,
    and opening it only feeds the exchange's lockout.
    """
    _apply(key, lambda s, _: nonces.reopen(s), as_json=as_json, new=False)


#: In the order of `--help`.
COMMANDS: Final = (next_, raise_floor, set_unit, set_tier, reopen)
