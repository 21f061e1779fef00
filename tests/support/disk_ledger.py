"""What was issued of a database's keys, so that whatever happens to its files, a lower nonce is noticed.

The keys run ten minutes ahead of the clock: who forgets what was issued, and begins at the clock, is caught.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from persistent_nonce import CallGate, NonceProvider, SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.commands import doctor
from persistent_nonce.errors import NonceError, StoreError

__all__ = ["KEYS", "Ledger", "findings"]

#: The API keys of a ledger; the first one makes calls too.
KEYS: Final = ("one", "two")

_AHEAD: Final = 600 * SECOND


class Ledger:
    """The greatest nonce of each key, and how its users were refused.

    Attributes:
        issued: how many nonces were seen.
        refused: how often each kind of error was seen.
        greatest: the last nonce of each key.
    """

    def __init__(self) -> None:
        self.greatest = dict.fromkeys(KEYS, 0)
        self.issued = 0
        self.refused: Counter[str] = Counter()

    def begin(self, store: SQLiteStore) -> None:
        """Set the keys up, far ahead of the clock, with a call on record."""
        for key in KEYS:
            provider = NonceProvider(store, key, unit="ns", label=key)
            provider.raise_floor(provider.next() + _AHEAD)
        self.call(store)
        self.take(store)

    def take(self, store: SQLiteStore, times: int = 1) -> None:
        """Take nonces of every key; each must come, above all earlier ones (I1, I2)."""
        for key in KEYS:
            provider = NonceProvider(store, key)
            for _ in range(times):
                self.note(key, provider.reserve(1)[0])

    def call(self, store: SQLiteStore) -> None:
        """Make a call with the first key."""
        with CallGate(store, KEYS[0], min_interval=0.0).call("Balance") as call:
            self.note(KEYS[0], call.nonce)

    def attempt(self, store: SQLiteStore, times: int = 1) -> list[StoreError]:
        """Try to take nonces of every key; return the errors, each of which must say what can be done (I9)."""
        return [error for key in KEYS for error in self._attempt(store, key, times)]

    def open_and_attempt(self, path: Path, times: int = 1) -> list[StoreError]:
        """Do so with a new store, which may be refused as a whole."""
        try:
            store = SQLiteStore(path)
        except NonceError as error:
            return [self._refuse(error)]
        with store:
            return self.attempt(store, times)

    def open_and_take(self, path: Path) -> None:
        """Take nonces with a new store."""
        with SQLiteStore(path) as store:
            self.take(store)

    def _attempt(self, store: SQLiteStore, key: str, times: int) -> list[StoreError]:
        errors: list[StoreError] = []
        provider = NonceProvider(store, key)
        for _ in range(times):
            try:
                self.note(key, provider.reserve(1)[0])
            except NonceError as error:
                errors.append(self._refuse(error))
        return errors

    def _refuse(self, error: NonceError) -> StoreError:
        assert isinstance(error, StoreError), repr(error)
        assert error.hint, error
        self.refused[type(error).__name__] += 1
        return error

    def note(self, key: str, nonce: int) -> None:
        """Note a nonce that was handed out: it must be above all before (I1, I2)."""
        before = self.greatest[key]
        assert nonce > before, f"key {key}: {nonce} after {before}"
        self.greatest[key] = nonce
        self.issued += 1


def findings(path: Path) -> list[str]:
    """Return what `doctor` finds wrong with a database, as `about: said -> do`; each says what to do."""
    found = [f for f in doctor.examine(path, others=list) if f.wrong]
    assert all(finding.do for finding in found), found
    return [f"{f.about}: {f.said} -> {f.do}" for f in found]
