"""One strictly increasing nonce and one call in flight per API key, over all processes of a host.

The whole tree of errors is in `persistent_nonce.errors`.
"""

from persistent_nonce.errors import (
    GateTimeoutError,
    InvalidNonceError,
    LockedOutError,
    NonceError,
    StoreError,
)
from persistent_nonce.gate import CallGate
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Rate, Recovery
from persistent_nonce.stores import open_store
from persistent_nonce.stores.sqlite import SQLiteStore

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
