"""Nonces without a gate: strictly increasing over all threads and processes of a host."""

from __future__ import annotations

from typing import Final

from persistent_nonce import nonces, settings
from persistent_nonce.arguments import check_label, check_store, whole_argument
from persistent_nonce.clock import Now
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.leases import Drawer
from persistent_nonce.state import Changed, KeyState, Wanted, check_unit, fingerprint
from persistent_nonce.stores.base import Store

__all__ = ["NonceProvider"]

#: The most nonces that one call may reserve.
_MOST: Final = 1_000_000


class NonceProvider(Drawer):
    """Hand out the nonces of one key.

    A nonce is the clock's reading in the key's unit, or one more than the last, whichever is greater. For calls that
    go to an exchange use a `CallGate`, which also keeps them in order on their way; use one or the other for a key.

    Args:
        store: where the key's state is kept, for all processes that use the key.
        key: the public part of the API key; only its fingerprint is kept.
        unit: "ms", "us", "10ns", "ns" or "s"; None follows the key's own, which is ms at first.
        label: a name for people, shown beside the fingerprint.

    Raises:
        ConfigurationError: an argument cannot be used.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        unit: str | None = None,
        label: str | None = None,
    ) -> None:
        check_store(store)
        wanted = Wanted(
            unit=None if unit is None else check_unit(unit),
            label=None if label is None else check_label(label),
        )
        super().__init__(store, fingerprint(key), wanted=wanted)

    def __call__(self) -> int:
        """Take the next nonce: the provider is a nonce function, as clients want one."""
        return self.next()

    def reserve(self, count: int) -> range:
        """Take `count` nonces in a row, from 1 to 1,000,000, at the cost of one.

        Raises:
            ConfigurationError: it is no such number.
            NonceError: as `next`; none of them was issued.
        """
        whole_argument("count", count, least=1, most=_MOST)

        def change(state: KeyState, now: Now) -> Changed:
            followed = settings.configure(state, self._wanted)
            return Changed(nonces.issue(followed, now, count))

        return self._reserve(change, count)

    def raise_floor(self, at_least: int) -> int:
        """Let every nonce to come be greater than `at_least`; return the mark, which never goes down (I10).

        Raises:
            ConfigurationError: it is no whole number.
            NonceRangeError: no nonce would be left.
            UnitMismatchError: the key counts in another unit.
            StoreError, ForkedCallError: the state cannot be used; nothing was changed.
        """
        if isinstance(at_least, bool) or not isinstance(at_least, int):
            raise ConfigurationError(
                f"a floor of {at_least!r:.40}", "a whole number in the key's unit"
            )

        def change(state: KeyState, now: Now) -> Changed:
            followed = settings.configure(state, self._wanted)
            return Changed(nonces.raise_floor(followed, now, at_least))

        return self._store.update(self.key, change, durable=True).nonce
