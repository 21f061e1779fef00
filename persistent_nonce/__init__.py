"""One strictly increasing nonce and one call in flight per API key, over all processes of a host.

The whole tree of errors is in `persistent_nonce.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from persistent_nonce.errors import (
    GateTimeoutError,
    InvalidNonceError,
    LockedOutError,
    NonceError,
    StoreError,
)

__all__ = [
    "CallGate",
    "GateTimeoutError",
    "InvalidNonceError",
    "LockedOutError",
    "NonceError",
    "NonceProvider",
    "Rate",
    "Recovery",
    "SQLiteStore",
    "StoreError",
    "open_store",
]

if TYPE_CHECKING:
    from persistent_nonce.gate import CallGate
    from persistent_nonce.provider import NonceProvider
    from persistent_nonce.state import Rate, Recovery
    from persistent_nonce.stores import open_store
    from persistent_nonce.stores.sqlite import SQLiteStore
else:
    # Loaded when it is first asked for (PEP 562): a command that shows the state needs no gate, nor does a program that
    # only takes nonces. Not seen by a type checker, for which every name would be there.
    _HOMES: Final = {
        "CallGate": "gate",
        "NonceProvider": "provider",
        "Rate": "state",
        "Recovery": "state",
        "SQLiteStore": "stores.sqlite",
        "open_store": "stores",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(f"{__name__}.{_HOMES[name]}")
        found = globals()[name] = getattr(home, name)
        return found

    def __dir__() -> list[str]:
        return sorted(globals().keys() | _HOMES)
