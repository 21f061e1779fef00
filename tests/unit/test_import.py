"""Importing the package brings in little, and importing an adapter without its client says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

import persistent_nonce
from tests.support.processes import Children


def told(source: str, lines: int) -> list[str]:
    """Run a script in a process of its own and return so many lines of what it says."""
    with Children() as children:
        child = children.script(source)
        return [child.line() for _ in range(lines)]


def test_import_is_lean() -> None:
    """Importing the package brings in none of the heavy modules that only some of its users need."""
    source = (
        "import sys\n"
        "import persistent_nonce\n"
        "import persistent_nonce.stores.sqlite, persistent_nonce.provider\n"
        "heavy = {'click', 'rich', 'requests', 'krakenex', 'sqlite_utils', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), flush=True)\n"
    )
    assert told(source, 1) == ["[]"]


def test_parts_are_loaded_when_they_are_asked_for() -> None:
    """The package alone loads its errors, and each other part when it is first asked for."""
    source = (
        "import sys\n"
        "import persistent_nonce\n"
        "def loaded(): return sorted(n for n in sys.modules if n.startswith('persistent_nonce.'))\n"
        "print(loaded())\n"
        "persistent_nonce.SQLiteStore, persistent_nonce.NonceProvider\n"
        "print('persistent_nonce.provider' in loaded(), 'persistent_nonce.gate' in loaded())\n"
        "from persistent_nonce import *\n"
        "print('persistent_nonce.gate' in loaded(), CallGate is persistent_nonce.gate.CallGate, flush=True)\n"
    )
    assert told(source, 3) == ["['persistent_nonce.errors']", "True False", "True True"]


def test_each_name_is_there() -> None:
    """Each public name is found where a type checker is told that it is, once and again, and is listed."""
    for name in persistent_nonce.__all__:
        assert getattr(persistent_nonce, name) is vars(persistent_nonce)[name]
        assert getattr(persistent_nonce, name).__name__ == name
    assert {*persistent_nonce.__all__} <= {*dir(persistent_nonce)}


def test_a_name_that_is_not_there() -> None:
    """A name that the package does not have is missing, as anywhere; a type checker says so too."""
    with pytest.raises(AttributeError, match=r"'persistent_nonce' has no attribute"):
        persistent_nonce.Manager  # type: ignore[attr-defined] # noqa: B018 - that it is not there is the point


@pytest.mark.parametrize(
    ("client", "adapter", "extra"),
    [
        ("krakenex", "krakenex", "krakenex"),
        ("kraken", "kraken_sdk", "kraken-sdk"),
        ("ccxt", "ccxt", "ccxt"),
        ("ccxt", "ccxt.async_support", "ccxt"),
        ("ccxt", "ccxt.pro", "ccxt"),
    ],
)
def test_without_the_client_the_import_says_what_to_install(
    client: str, adapter: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing an adapter without its client names the extra that brings it."""
    ours = "persistent_nonce.adapters."
    for name in list(sys.modules):
        if f"{name}.".startswith(
            (f"{client}.", f"{ours}{adapter.split('.', maxsplit=1)[0]}.")
        ):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(ImportError, match=rf"persistent_nonce\[{extra}\]"):
        importlib.import_module(ours + adapter)
