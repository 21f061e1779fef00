"""The layers of the package: a module imports only from its own layer or a lower one."""

from __future__ import annotations

import ast
from importlib.util import resolve_name
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PACKAGE: Final = "persistent_nonce"
ROOT: Final = Path(__file__).parents[2]

#: The modules of each layer, lowest layer first. A package stands for what is in it, but for modules with an entry of
#: their own; "" is the package itself.
LAYERS: Final = (
    ("errors", "clock", "steps", "arguments"),
    ("state",),
    (
        "rules",
        "order",
        "records",
        "nonces",
        "recovery",
        "settings",
        "kraken",
        "replies",
        "doubt",
        "verification",
        "findings",
        "stores.base",
    ),
    ("stores",),
    ("leases",),
    (
        "provider",
        "gate",
        "calls",
        "passage",
        "room",
        "candidate",
        "messages",
        "doorbell",
    ),
    ("adapters", "testing"),
    ("", "cli", "__main__", "commands", "demo", "crew", "bots"),
)

#: No module has more lines than this.
MOST_LINES: Final = 350


def _modules() -> dict[str, Path]:
    """Return the file of each module of the package by the module's full name."""
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES: Final = _modules()


def _layer(module: str) -> int | None:
    """Return the layer of `module`, or None where neither it nor a package around it is in the table."""
    name = module.removeprefix(PACKAGE).removeprefix(".")
    while True:
        for layer, names in enumerate(LAYERS):
            if name in names:
                return layer
        if "." not in name:
            return None
        name = name.rpartition(".")[0]


def _imports(
    source: str, package: str, known: Collection[str]
) -> Iterator[tuple[int, str]]:
    """Yield line and name of each module of ours that `source` imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            full = [f"{origin}.{alias.name}" for alias in node.names]
            names = [name if name in known else origin for name in full]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == PACKAGE:
                yield node.lineno, name


def faults(
    module: str, source: str, *, package: str | None = None, known: Collection[str] = ()
) -> list[str]:
    """Return a sentence for each import of `source` that goes upward, and for each module without a layer.

    Args:
        module: the full name of the module that `source` is the text of.
        source: what is read; nothing of it is run.
        package: what relative imports start from; the package around `module` unless given.
        known: the full names of all modules, which tell `from package import module` from `from module import name`.
    """
    own = _layer(module)
    if own is None:
        return [
            f"{module} has no layer: give it one in LAYERS of tests/unit/test_layers.py."
        ]
    found = []
    for line, name in _imports(source, package or module.rpartition(".")[0], known):
        layer = _layer(name)
        if layer is None:
            found.append(
                f"{module}, line {line}, imports {name}, which has no layer in LAYERS."
            )
        elif layer > own:
            found.append(
                f"{module} (layer {own}), line {line}, imports {name} (layer {layer}): upward."
            )
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    """A module imports nothing from a layer above its own."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else None
    assert not faults(module, path.read_text("utf-8"), package=package, known=MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_modules_are_short(module: str) -> None:
    """A module is short enough to be read in one go."""
    lines = len(MODULES[module].read_text("utf-8").splitlines())
    assert lines <= MOST_LINES, (
        f"{module} has {lines} lines, {lines - MOST_LINES} more than allowed: split it."
    )


def test_the_package_is_found() -> None:
    """The tests above judge something: modules in the package and in the packages inside it."""
    assert {f"{PACKAGE}.errors", f"{PACKAGE}.stores"} <= MODULES.keys()


def test_no_module_has_two_layers() -> None:
    """The table names a module once."""
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))


KNOWN: Final = {
    f"{PACKAGE}.{name}"
    for name in ("cli", "errors", "gate", "rules", "stores", "stores.sqlite")
}


@pytest.mark.parametrize(
    "source",
    [
        "import persistent_nonce.cli",
        "import os, persistent_nonce.cli as cli",
        "from persistent_nonce.gate import CallGate",
        "from persistent_nonce import gate",
        "from persistent_nonce import NonceProvider",
        "from persistent_nonce import *",
        "from . import gate",
        "from .stores.sqlite import SQLiteStore",
        "from .stores import sqlite",
        "def late():\n    from persistent_nonce.gate import CallGate",
        "if TYPE_CHECKING:\n    from persistent_nonce.gate import CallGate",
        "try:\n    import persistent_nonce.adapters.krakenex\nexcept ImportError:\n    pass",
    ],
)
def test_an_upward_import_is_a_fault(source: str) -> None:
    """However it is written and wherever it stands, an upward import is found once."""
    found = faults(f"{PACKAGE}.rules", source, known=KNOWN)
    assert len(found) == 1
    assert found[0].endswith("upward.")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("rules", "from persistent_nonce.errors import NonceError"),
        ("rules", "from persistent_nonce.state import KeyState"),
        ("rules", "from persistent_nonce.stores.base import Store"),
        ("stores.sqlite", "from persistent_nonce.stores.base import Store"),
        ("stores.sqlite", "from .connection import connect"),
        ("stores.sqlite", "from .. import errors"),
        ("gate", "from persistent_nonce.stores import open_store"),
        ("cli", "from persistent_nonce import NonceProvider"),
        ("errors", "import persistent_nonce_of_others.cli"),
        ("errors", "import sqlite3, os.path"),
        ("errors", "'from persistent_nonce.cli import main'"),
    ],
)
def test_an_import_downward_or_sideways_is_none(module: str, source: str) -> None:
    """A lower layer, the same layer, other packages and mere text are no faults."""
    assert not faults(f"{PACKAGE}.{module}", source, known=KNOWN)


def test_a_package_imports_relative_to_itself() -> None:
    """A relative import in an `__init__` starts from that package, not from the one around it."""
    source = "from .base import Store"
    assert not faults(f"{PACKAGE}.stores", source, package=f"{PACKAGE}.stores")
    assert faults(f"{PACKAGE}.stores", source)


def test_a_module_without_a_layer_is_a_fault() -> None:
    """A module that is not in the table is named in a sentence, as importer and as imported."""
    assert faults(f"{PACKAGE}.letters", "") == [
        "persistent_nonce.letters has no layer: give it one in LAYERS of tests/unit/test_layers.py."
    ]
    assert faults(f"{PACKAGE}.gate", "import persistent_nonce.letters") == [
        "persistent_nonce.gate, line 1, imports persistent_nonce.letters, which has no layer in LAYERS."
    ]
