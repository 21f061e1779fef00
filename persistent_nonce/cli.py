"""The command line: its beginning, how it ends, and the commands that only read."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from persistent_nonce import records
from persistent_nonce.commands import facts
from persistent_nonce.commands.access import find_key, open_reader
from persistent_nonce.commands.changing import COMMANDS
from persistent_nonce.commands.doctor import examine
from persistent_nonce.commands.online import ask
from persistent_nonce.commands.options import as_json, chosen, database, emit
from persistent_nonce.commands.recovering import recover
from persistent_nonce.errors import NonceError
from persistent_nonce.stores.sessions import probe

if TYPE_CHECKING:
    from persistent_nonce.state import CallRecord, KeyState
    from persistent_nonce.stores.reader import Reader

__all__ = ["commands", "main"]

#: What a command ends with, beside 0: it found something wrong; it could not do what was asked.
_FINDING: Final = 1
_FAILED: Final = 2

#: What is not repeated in an error, since it may be a key or a secret (I11): Kraken's have 56 and 88 signs.
_LIKE_A_KEY: Final = re.compile(r"[^\s'\"]{32,}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one line on stderr and the code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label may hold any sign
    try:
        code = commands.main(
            arguments, prog_name="persistent-nonce", standalone_mode=False
        )
    except NonceError as error:
        return _fail(str(error))
    except click.ClickException as error:
        return _fail(_usage(error))
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:  # of the output: what a store meets is in our tree
        why = error.strerror or repr(error)
        return _fail(f"{why} (look at where the output goes)")
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "persistent-nonce"
    message = _LIKE_A_KEY.sub("…", error.format_message())
    return f"{message} (see: {path} --help)"


def _fail(message: str) -> int:
    click.echo(f"error: {facts.clean(' '.join(message.split()))}", err=True)
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


# --- reading: no lock is waited for, no file is left behind


def _states(reader: Reader, given: str | None) -> list[KeyState]:
    keys = reader.keys() if given is None else [find_key(chosen(), given)]
    return [reader.read(key) for key in keys]


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
    from persistent_nonce.commands import view  # noqa: PLC0415 - rich is slow to load

    with closing(open_reader(chosen())) as reader:
        seen = _states(reader, key), reader.now(), reader.path
    emit(
        partial(view.states_data, *seen),
        partial(view.states_text, *seen),
        as_json=as_json,
    )


@commands.command()
@click.argument("key", required=False)
@click.option(
    "--in-doubt", is_flag=True, help="Only calls that may have been executed, or not."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    metavar="N",
    help="At most N calls.",
)
@as_json
@database
def calls(key: str | None, *, in_doubt: bool, limit: int, as_json: bool) -> None:
    """List the newest calls of KEY, or of every key.

    Each with the time it waited for its turn, its duration and its outcome. A call in doubt (its outcome is unknown, or
    it was interrupted when its process died) may have been executed: look it up at the exchange before it is sent
    again. Such calls are kept until they are settled, of the others the newest 1000 of each key, or some more.
    """
    from persistent_nonce.commands import view  # noqa: PLC0415 - rich is slow to load

    with closing(open_reader(chosen())) as reader:
        states = _states(reader, key)
        found = _calls(reader, states, limit, in_doubt=in_doubt)
    emit(
        partial(view.calls_data, found, states),
        partial(view.calls_table, found, states, reader.now()),
        as_json=as_json,
    )


def _calls(
    reader: Reader, states: list[KeyState], limit: int, *, in_doubt: bool = False
) -> list[CallRecord]:
    key = states[0].key if len(states) == 1 else None
    kept = reader.calls(key, -1 if in_doubt else limit)  # -1: all that there are
    found = facts.recent(kept, states, reader.now(), probe(reader.path))
    return [call for call in found if not in_doubt or records.in_doubt(call)][:limit]


@commands.command()
@click.argument("key", required=False)
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Look again after so long.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Show the last N calls.",
)
@as_json
@database
def watch(key: str | None, *, interval: float, limit: int, as_json: bool) -> None:
    """Show KEY, or every key, live, until Ctrl-C.

    The last calls are listed below. With --json, each look is a line.
    """
    from persistent_nonce.commands import view  # noqa: PLC0415 - rich is slow to load

    def look() -> view.Look:
        # A new reader each time: the database may have been replaced.
        with closing(open_reader(chosen())) as reader:
            states = _states(reader, key)
            found = _calls(reader, states, limit)
            return view.Look(states, found, reader.now(), reader.path)

    with suppress(KeyboardInterrupt):  # its end
        view.live(look, interval, as_json=as_json)


@commands.command()
@click.option(
    "--online",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ask the exchange too, for the API key and secret on two lines of FILE.",
)
@click.option("--uri", metavar="URL", help="Where the exchange answers, if elsewhere.")
@as_json
@database
def doctor(*, online: Path | None, uri: str | None, as_json: bool) -> int:
    """Look for what is wrong, and exit with 1 if anything is.

    The database's place and permissions are checked, SQLite, the lock, the clock, each key, and the stores of other
    users, as far as they can be read. Each finding says what to do. Nothing is changed. To see whether the lock is free
    it is tried, without waiting, and given back at once: a program that wants it in that moment has it less than a
    millisecond later.

    With --online one call is made, GetApiKeyInfo, which waits for its turn like any other: the exchange's floor, the
    unit it is in, the nonce window and the last use are held against what is known here. FILE is read as krakenex reads
    it; a floor that is higher than ours is followed, and what is wrong is kept as the key's diagnosis.
    """
    from persistent_nonce.commands import view  # noqa: PLC0415 - rich is slow to load

    found = examine(chosen())
    if online is not None:
        found += ask(chosen(), online, uri)
    emit(
        partial(view.findings_data, found),
        partial(view.findings_text, found),
        as_json=as_json,
    )
    return _FINDING if any(finding.wrong for finding in found) else 0


@commands.command()
def demo() -> int:
    """Let four bots collide on one key, then share it.

    Against a simulated exchange on this machine, in less than 30 s.
    """
    from persistent_nonce import demo as proof  # noqa: PLC0415 - nobody else needs it

    return proof.main()


for _command in (*COMMANDS, recover):
    commands.add_command(_command)
