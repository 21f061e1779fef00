"""Importing the package brings in little."""

from __future__ import annotations

from tests.support.processes import Children


def test_import_is_lean() -> None:
    """Importing the package brings in none of the heavy modules that only some of its users need."""
    source = (
        "import sys\n"
        "import persistent_nonce\n"
        "import persistent_nonce.stores.sqlite, persistent_nonce.provider\n"
        "heavy = {'click', 'rich', 'requests', 'krakenex', 'sqlite_utils', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), flush=True)\n"
    )
    with Children() as children:
        child = children.script(source)
        assert child.line() == "[]"
