"""What the commands have in common: their options, and how they print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["as_json", "chosen", "database", "emit"]

F = TypeVar("F", bound=Callable[..., Any])


def _remember(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.find_root().obj = path


def database(command: F) -> F:
    """Give a command the option --db, which may stand before or behind the command's name."""
    return click.option(
        "--db",
        type=click.Path(path_type=Path),
        metavar="PATH",
        callback=_remember,
        expose_value=False,
        help="The database; else PERSISTENT_NONCE_DB, else the one in this user's home.",
    )(command)


def as_json(command: F) -> F:
    """Give a command the option --json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON; nonces are strings in it."
    )(command)


def chosen() -> Path | None:
    """Return the path that --db gave to the running command."""
    path: Path | None = click.get_current_context().find_root().obj
    return path


def emit(
    data: Callable[[], Any], text: Callable[[], RenderableType], *, as_json: bool
) -> None:
    """Print `data` as JSON, or else `text` for people."""
    if as_json:
        click.echo(json.dumps(data()))
        return
    from persistent_nonce.commands.view import write  # noqa: PLC0415 - rich is slow to load

    write(text())
