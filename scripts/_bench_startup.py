"""What it takes to begin: importing the package, opening a store, the command that shows its state."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from _bench_table import Row, Size, Times, single

from persistent_nonce import NonceProvider, SQLiteStore

__all__ = ["start_up"]

_ROOT: Final = Path(__file__).resolve().parents[1]

_PACKAGE: Final = "persistent_nonce"

#: A line of `-X importtime`: µs of the module itself, of all it imports too, and its name.
_LINE: Final = re.compile(r"import time: +(\d+) \| +(\d+) \| +(\S+)")


def _run(compiled: Path, *arguments: str, place: Path = _ROOT) -> str:
    """Run the interpreter and return what it wrote to its standard error; `compiled` keeps the compiled modules."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(  # noqa: S603 - of this script's own words
        [sys.executable, *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


class Import(NamedTuple):
    """What `import` of a package took."""

    own: float  # seconds of its own modules
    total: float  # seconds with those of others that they bring in
    modules: int  # of its own


def _imports(compiled: Path, package: str, place: Path = _ROOT) -> Import:
    """Import a package that lies in `place`."""
    told = _run(compiled, "-X", "importtime", "-c", f"import {package}", place=place)
    lines = _LINE.findall(told)
    ours = [line for line in lines if line[-1].partition(".")[0] == package]
    own = sum(int(own) for own, *_ in ours)
    (total,) = (int(all_) for _, all_, name in ours if name == package)
    return Import(own / 1e6, total / 1e6, len({name for *_, name in ours}))


def _empty(place: Path, count: int) -> str:
    """Make a package of `count` modules without a word in them, and return its name."""
    package = place / "empty"
    package.mkdir(parents=True)
    names = [f"module_{number}" for number in range(count - 1)]
    for name in names:
        (package / f"{name}.py").touch()
    imports = [f"import {package.name}.{name}\n" for name in names]
    (package / "__init__.py").write_text("".join(imports), "utf-8")
    return package.name


def start_up(directory: Path, size: Size) -> list[Row]:
    """Import the package, open a store and show it, each in turn."""
    path = directory / "start.db"
    with SQLiteStore(path) as store:
        NonceProvider(store, "key").next()
    own, total, none, bare, shown, made, opened, first = (
        Times([], []) for _ in range(8)
    )
    show = ("-m", "persistent_nonce", "--db", str(path), "show")
    compiled = directory / "compiled"
    _run(compiled, *show)  # compiles what the others find
    count = _imports(compiled, _PACKAGE).modules
    empty, place = _empty(directory / "empty", count), directory / "empty"
    _imports(compiled, empty, place)
    for number in range(size.starts):
        ours = _imports(compiled, _PACKAGE)
        own.add(ours.own)
        total.add(ours.total)
        none.add(_imports(compiled, empty, place).own)
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
        f"import persistent_nonce: {count} empty modules would take": none,
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
