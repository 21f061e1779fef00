"""The command that rebuilds a database: what it says of each key."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from persistent_nonce.commands.facts import clean
from persistent_nonce.commands.options import as_json, chosen, database, emit
from persistent_nonce.stores import place
from persistent_nonce.stores.permissions import is_shared
from persistent_nonce.stores.rebuild import Rebuilt, RebuiltKey, rebuild

if TYPE_CHECKING:
    from pathlib import Path

    from rich.text import Text

__all__ = ["recover"]


@click.command()
@as_json
@database
def recover(*, as_json: bool) -> None:
    """Rebuild a database that is damaged, empty, or went back.

    From what can be read of it, the marks beside it, and the clock; only ever upwards. Stop all programs of the store
    first: one that only takes nonces is not seen, and has to be started again. The files are kept as they were found,
    under another name. With nothing wrong, nothing is changed.

    A key of which neither row nor mark is left is not known here: raise-floor it above its last nonce before a program
    uses it.
    """
    path = chosen() or place.default_path()
    done = rebuild(path, shared=is_shared(path))
    emit(partial(_data, path, done), partial(_text, path, done), as_json=as_json)


def _data(path: Path, done: Rebuilt | None) -> dict[str, Any]:
    if done is None:
        return {"path": str(path), "rebuilt": False}
    return {
        "path": str(path),
        "rebuilt": True,
        "kept": done.kept and str(done.kept),
        "calls": done.calls,
        "keys": [
            {
                "key": key.state.key,
                "label": key.state.label,
                "unit": key.state.unit,
                "from": _sources(key),
                "row": None if key.before is None else str(key.before.nonce),
                "mark": None if key.mark is None else str(key.mark.nonce),
                "nonce": str(key.state.nonce),
                "closed": key.state.closed,
            }
            for key in done.keys
        ],
    }


def _sources(key: RebuiltKey) -> list[str]:
    found = {"row": key.before, "mark": key.mark}
    return [name for name, value in found.items() if value is not None]


def _text(path: Path, done: Rebuilt | None) -> Text:
    from rich.text import Text  # noqa: PLC0415 - slow to load

    if done is None:
        return Text(clean(f"nothing is wrong with {path}; nothing was changed"))
    text = Text(clean(f"{path} was rebuilt"))
    if done.kept is not None:
        text.append(clean(f"; as it was found it is kept as {done.kept}"))
    for key in done.keys:
        state = key.state
        name = f"{state.key} {state.label!r}" if state.label else state.key
        text.append(f"\nkey {clean(name)}: ", "bold")
        sources = " and ".join(_sources(key))
        if sources:
            text.append(
                f"goes on above {state.nonce} ({state.unit}), from its {sources}"
            )
        if state.closed:
            text.append(clean(f"; closed: {state.diagnosis}"), "red")
    return text.append(f"\n{done.calls} call records were read")
