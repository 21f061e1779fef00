"""The command line: its beginning, how it ends, and the commands that only read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from persistent_nonce.access import find_key, open_reader
from persistent_nonce.changing import COMMANDS
from persistent_nonce.errors import NonceError
from persistent_nonce.options import as_json, chosen, database, emit

if TYPE_CHECKING:
    from persistent_nonce.state import CallRecord, KeyState
    from persistent_nonce.stores.reader import Reader

__all__ = ["commands", "main"]

#: What a command ends with, beside 0: it found something wrong; it could not do what was asked.
_FINDING, _FAILED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on stderr and the code 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a label may hold any sign
    try:
        code = commands.main(
            arguments, prog_name="persistent-nonce", standalone_mode=False
        )
        sys.stdout.flush()
    except NonceError as error:
        return _fail(str(error))
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "persistent-nonce"
        return _fail(f"{error.format_message()} (see: {path} --help)")
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter's own last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FINDING
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    from persistent_nonce.facts import clean

    click.echo(f"error: {clean(' '.join(message.split()))}", err=True)
    return _FAILED


@click.group(invoke_without_command=True)
@click.version_option(package_name="persistent_nonce", message="%(version)s")
@database
@click.pass_context
def commands(context: click.Context) -> None:
    """Show and change the nonces and calls of API keys, which all programs of this machine share.

    A KEY is named by its fingerprint (the first 16 hex digits of the SHA-256 of the API key), by a beginning of it that
    no other key has, or by its label. Never give the API key itself: other users see command lines.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# --- reading: no lock is taken, no file is left behind


@commands.command()
@click.argument("key", required=False)
@as_json
@database
def show(key: str | None, *, as_json: bool) -> None:
    """Show what is known of KEY, or of every key.

    The first line is the path of the database. Then, for each key: the unit of its nonces, the last nonce and how far
    it lies ahead of the clock, the call in flight, the queue, the call counter, the back-off with its reason, and
    what was concluded from refused nonces.
    """
    from persistent_nonce.view import states_data, states_text

    reader = access.open_reader(_path())
    states, now = _states(reader, key), reader.now()
    _print(
        lambda: states_data(states, now, reader.path),
        lambda: states_text(states, now, reader.path),
        as_json=as_json,
    )


@commands.command()
@click.argument("key", required=False)
@click.option("--in-doubt", is_flag=True, help="Only calls that may have been executed, or not.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most N calls.")  # fmt: skip
@as_json
@database
def calls(key: str | None, *, in_doubt: bool, limit: int, as_json: bool) -> None:
    """List the newest calls of KEY, or of every key, with wait, duration and outcome.

    A call in doubt (outcome unknown, or interrupted when its process died) may have been executed: look it up at the
    exchange before it is sent again. Such calls are kept for ever, of the others the newest 1000 of each key.
    """
    from persistent_nonce.view import calls_data, calls_table

    reader = access.open_reader(_path())
    states, now = _states(reader, key), reader.now()
    found = _recent(reader, states, limit, in_doubt=in_doubt)
    _print(
        lambda: calls_data(found, states),
        lambda: calls_table(found, states, now),
        as_json=as_json,
    )


def _recent(
    reader: Reader, states: list[KeyState], limit: int, *, in_doubt: bool = False
) -> list[CallRecord]:
    from persistent_nonce import facts
    from persistent_nonce.view import probe

    key = states[0].key if len(states) == 1 else None
    records = reader.calls(key, -1 if in_doubt else limit)  # -1: all of them
    found = facts.recent(records, states, reader.now(), probe(reader.path))
    return [call for call in found if not in_doubt or facts.in_doubt(call)][:limit]


@commands.command()
@click.argument("key", required=False)
@click.option("--interval", type=click.FloatRange(0.05, 3600), default=0.5, show_default=True, metavar="SECONDS", help="Look so often.")  # fmt: skip
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="Show the last N calls too.")  # fmt: skip
@as_json
@database
def watch(key: str | None, *, interval: float, limit: int, as_json: bool) -> None:
    """Show KEY, or every key, and the last calls, live until Ctrl-C.

    With --json, a line for each look.
    """
    from persistent_nonce import view

    reader = access.open_reader(_path())

    def look() -> view.Look:
        states = _states(reader, key)
        calls = _recent(reader, states, limit) if limit else []
        return view.Look(states, calls, reader.now(), reader.path)

    try:
        if not as_json:
            view.live(look, interval)
        while True:
            click.echo(json.dumps(view.look_data(look())))
            time.sleep(interval)
    except KeyboardInterrupt:
        pass


@commands.command()
@as_json
@database
def doctor(*, as_json: bool) -> int:
    """Check the place of the database, its lock, the clock and every key; exit with 1 if something is wrong.

    Each finding says what to do. Nothing is changed. The lock is tried once a moment for at most a second, shared and
    without waiting, and given back at once; a program that wants it then tries again within a millisecond.
    """
    from persistent_nonce.doctor import examine
    from persistent_nonce.view import findings_data, findings_text

    path = _path()
    found = examine(path)
    _print(
        lambda: findings_data(found), lambda: findings_text(found), as_json=as_json
    )
    return _FINDING if any(finding.wrong for finding in found) else 0


