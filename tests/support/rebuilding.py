"""A database with three keys far ahead of the clock, to be damaged and rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from persistent_nonce.clock import SECOND
from persistent_nonce.gate import CallGate
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import UNITS, fingerprint
from persistent_nonce.stores.rebuild import Rebuilt, rebuild
from persistent_nonce.stores.sqlite import SQLiteStore

__all__ = ["KEYS", "contents", "done", "goes_on_above", "use"]

KEYS: Final = ("one", "two", "three")


def use(path: Path, times: int = 3) -> dict[str, int]:
    """Take nonces of every key, far ahead of the clock, in several units; return the last of each."""
    with SQLiteStore(path) as store:
        last = {}
        for key, unit in zip(KEYS, ("ms", "us", "ns"), strict=True):
            provider = NonceProvider(store, key, unit=unit, label=f"{key} label")
            provider.raise_floor(provider.next() + 600 * SECOND // UNITS[unit])
            for _ in range(times):
                last[provider.key] = provider.next()
        gate = CallGate(store, "one", min_interval=0.0)
        for _ in range(times):
            with gate.call("Balance") as call:
                last[fingerprint("one")] = call.nonce
        return last


def contents(path: Path) -> dict[str, bytes]:
    """Return every file beside the database but the lock, which is made by who looks."""
    files = (file for file in path.parent.rglob("*") if file.is_file())
    return {file.name: file.read_bytes() for file in files if file.suffix != ".lock"}


def done(path: Path) -> Rebuilt:
    """Rebuild the database, which must be in need of it."""
    rebuilt = rebuild(path, shared=False)
    assert rebuilt is not None
    assert rebuild(path, shared=False) is None  # and now nothing is wrong any more
    return rebuilt


def goes_on_above(path: Path, last: dict[str, int]) -> None:
    """Assert that the next nonce of every key lies above its last."""
    with SQLiteStore(path) as store:
        for key in KEYS:
            provider = NonceProvider(store, key)
            assert provider.next() > last[provider.key]
