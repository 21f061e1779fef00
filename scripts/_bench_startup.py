"""What it takes to begin: importing the package, opening a store, the command that shows its state."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from _bench_table import Row, Size, Times, single

from persistent_nonce import NonceProvider, SQLiteStore

__all__ = ["start_up"]

_ROOT: Final = Path(__file__).resolve().parents[1]

#: A line of `-X importtime`: µs of the module itself, of all it imports too, and its name, further in if another module
#: imports it.
_LINE: Final = re.compile(r"import time: +(\d+) \| +(\d+) \| ( *)(\S+)")

#: What is imported: the package, which loads its parts when they are asked for, and what most programs ask it for.
_PACKAGE: Final = "import persistent_nonce"
_PARTS: Final = "from persistent_nonce import CallGate, NonceProvider, SQLiteStore"


def _run(compiled: Path, *arguments: str) -> str:
    """Run the interpreter and return what it wrote to its standard error; `compiled` keeps the compiled modules."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603 - of this script's own words
        [sys.executable, *arguments],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def _imports(compiled: Path, statement: str) -> tuple[float, float]:
    """Return the seconds that our own modules take of an import, and all that it brings in."""
    lines = _LINE.findall(_run(compiled, "-X", "importtime", "-c", statement))
    ours = [line for line in lines if line[-1].startswith("persistent_nonce")]
    own = sum(int(own) for own, *_ in ours)
    total = sum(int(all_) for _, all_, inner, _ in ours if not inner)
    return own / 1e6, total / 1e6


def start_up(directory: Path, size: Size) -> list[Row]:
    """Import the package, open a store and show it, each in turn."""
    path = directory / "start.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "key").next()
    package, parts, total, bare, shown, made, opened, first = (
        Times([], []) for _ in range(8)
    )
    show = ("-m", "persistent_nonce", "--db", str(path), "show")
    compiled = directory / "compiled"
    _run(compiled, *show)  # compiles what the others find
    for number in range(size.starts):
        package.add(_imports(compiled, _PACKAGE)[0])
        own, all_ = _imports(compiled, _PARTS)
        parts.add(own)
        total.add(all_)
        bare.add(single(lambda: _run(compiled, "-c", "pass")))
        shown.add(single(lambda: _run(compiled, *show)))
        for times, file in ((made, directory / f"{number}.db"), (opened, path)):
            begin = time.perf_counter()
            store = SQLiteStore(file)
            times.add(time.perf_counter() - begin)
            if file == path:
                first.add(single(NonceProvider(store, "key").next))
            store.close()
    named = {
        "a gate, a provider and a store: our own modules": parts,
        "a gate, a provider and a store: with what they import": total,
        "opening a store": opened,
        "making a store": made,
        "the first nonce of a store that was opened": first,
        "persistent-nonce show": shown,
        "an interpreter that does nothing": bare,
    }
    return [
        package.row(f"{_PACKAGE}: our own modules", unit="ms", goal="≤ 10"),
        *(times.row(what, unit="ms") for what, times in named.items()),
    ]
