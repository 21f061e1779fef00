"""Importing the package brings in little, and importing an adapter without its client says what to install."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.support.processes import Children


def told(source: str, *arguments: object) -> str:
    """Run a script in a process of its own and return the line that it says."""
    with Children() as children:
        return children.script(source, *arguments).line()


def test_import_is_lean() -> None:
    """Importing the package brings in none of the heavy modules that only some of its users need."""
    source = (
        "import sys\n"
        "import persistent_nonce\n"
        "import persistent_nonce.stores.sqlite, persistent_nonce.provider\n"
        "heavy = {'click', 'rich', 'requests', 'krakenex', 'sqlite_utils', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), flush=True)\n"
    )
    assert told(source) == "[]"


def test_nothing_is_loaded_at_the_first_use_of_a_name() -> None:
    """All parts come with the package: a child forked while a thread loads one would wait for it for ever (I8)."""
    source = (
        "import sys\n"
        "import persistent_nonce\n"
        "before = set(sys.modules)\n"
        "from persistent_nonce import *\n"
        "print(sorted(set(sys.modules) - before), flush=True)\n"
    )
    assert told(source) == "[]"


def test_nothing_is_loaded_by_a_call_that_waits(tmp_path: Path) -> None:
    """Nor is anything loaded later: a child forked while a thread's first wait loads it would wait for ever (I8)."""
    source = (
        "import sys, threading\n"
        "from persistent_nonce import CallGate, SQLiteStore\n"
        "gate = CallGate(SQLiteStore(sys.argv[1]), 'key')\n"
        "def wait():\n"
        "    with gate.call('Balance'):\n"
        "        pass\n"
        "before = set(sys.modules)\n"
        "thread = threading.Thread(target=wait)\n"
        "with gate.call('Balance'):\n"
        "    thread.start()\n"
        "    while not gate.store.read(gate.key).queue:\n"
        "        pass\n"
        "thread.join()\n"
        "print(sorted(set(sys.modules) - before), flush=True)\n"
    )
    assert told(source, tmp_path / "nonces.db") == "[]"


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
