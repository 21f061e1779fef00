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

#: A line of `-X importtime`: µs of the module itself, of all it imports too, and its name.
_LINE: Final = re.compile(r"import time: +(\d+) \| +(\d+) \| +(\S+)")


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


def _imports(compiled: Path) -> tuple[float, float]:
    """Return the seconds that our own modules take of `import persistent_nonce`, and all of them."""
    lines = _LINE.findall(
        _run(compiled, "-X", "importtime", "-c", "import persistent_nonce")
    )
    ours = [int(own) for own, _, name in lines if name.startswith("persistent_nonce")]
    (total,) = (int(all_) for _, all_, name in lines if name == "persistent_nonce")
    return sum(ours) / 1e6, total / 1e6


def start_up(directory: Path, size: Size) -> list[Row]:
    """Import the package, open a store and show it, each in turn."""
    path = directory / "start.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "key").next()
    own, total, bare, shown, made, opened, first = (Times([], []) for _ in range(7))
    show = ("-m", "persistent_nonce", "--db", str(path), "show")
    compiled = directory / "compiled"
    _run(compiled, *show)  # compiles what the others find
    for number in range(size.starts):
        ours, all_ = _imports(compiled)
        own.add(ours)
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
        "import persistent_nonce: with what it imports": total,
        "opening a store": opened,
        "making a store": made,
        "the first nonce of a store that was opened": first,
        "persistent-nonce show": shown,
        "an interpreter that does nothing": bare,
    }
    return [
        own.row("import persistent_nonce: our own modules", unit="ms", goal="≤ 10"),
        *(times.row(what, unit="ms") for what, times in named.items()),
    ]
