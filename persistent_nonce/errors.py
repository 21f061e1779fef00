"""The errors of this library, one tree.

    NonceError                        everything below; `.hint` says what an operator can do
    ├── InvalidNonceError             the exchange refused the nonce (raise it in a call's body to say so)
    ├── ExchangeError                 the exchange did not answer a question of ours
    ├── NonceRangeError               the next nonce would lie above the key's bound or above 2**63 - 1
    ├── ConfigurationError            (ValueError) an argument that cannot be used, or contradicts what is stored
    │   └── UnitMismatchError         the key's nonces are stored in another unit
    ├── CallError                     a call that was not sent
    │   ├── GateTimeoutError          (TimeoutError) no turn within the timeout; names the holder
    │   ├── LockedOutError            a shared back-off ends after the call's deadline
    │   ├── KeyClosedError            the key was closed after repeated refusals; the diagnosis says why
    │   ├── NestedCallError           a call inside a call for the same key
    │   └── ForkedCallError           a call, or a store in use, was inherited over fork
    └── StoreError                    the state cannot be locked, read, trusted or written; no nonce was issued
        ├── StoreTimeoutError         (TimeoutError) the file lock was not free within the timeout
        ├── StoreUnavailableError     missing, read-only, full, or an I/O error
        ├── StorePermissionError      owner, mode, link or directory that cannot be trusted
        ├── StoreUnsupportedError     a file system or SQLite on which the guarantees do not hold
        ├── StoreVersionError         written by another version of the schema
        ├── StoreReplacedError        a file of the store was deleted or replaced while in use
        ├── StoreRolledBackError      the database went back to an older state
        └── StoreCorruptError         damaged, or not a database of this library

A store maps every foreign error to one of these (`raise … from error`), and all of them survive pickling.
"""

from __future__ import annotations

__all__ = [
    "CallError",
    "ConfigurationError",
    "ExchangeError",
    "ForkedCallError",
    "GateTimeoutError",
    "InvalidNonceError",
    "KeyClosedError",
    "LockedOutError",
    "NestedCallError",
    "NonceError",
    "NonceRangeError",
    "StoreCorruptError",
    "StoreError",
    "StorePermissionError",
    "StoreReplacedError",
    "StoreRolledBackError",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "StoreUnsupportedError",
    "StoreVersionError",
    "UnitMismatchError",
]


class NonceError(Exception):
    """Base of every error of this library.

    Attributes:
        hint: one sentence for the operator, what can be done; empty when there is nothing to add.
    """

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(message, hint)  # both in args, so that pickling restores both
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message} ({self.hint})" if self.hint else message


class InvalidNonceError(NonceError):
    """The exchange refused the nonce, so the call was not executed."""


class ExchangeError(NonceError):
    """The exchange did not answer a question about a key's own calls."""


class NonceRangeError(NonceError):
    """The next nonce would lie above the key's bound (I10) or above 2**63 - 1; nothing was issued."""


class ConfigurationError(NonceError, ValueError):
    """An argument cannot be used, or contradicts what is stored for the key."""


class UnitMismatchError(ConfigurationError):
    """The caller asks for another unit than the one the key's nonces are stored in."""


class CallError(NonceError):
    """A call was not sent."""


class GateTimeoutError(CallError, TimeoutError):
    """The call did not get its turn within its timeout; the message names the holder."""


class LockedOutError(CallError):
    """A back-off or lockout shared by all processes of the key ends after this call's deadline."""


class KeyClosedError(CallError):
    """The key was closed after repeated refusals, for all processes, until an operator acts."""


class NestedCallError(CallError):
    """The thread or task already has, or waits for, a call of this key: it would wait for itself."""


class ForkedCallError(CallError):
    """The call, or a store that was in use, was inherited over fork and cannot be used in the child."""


class StoreError(NonceError):
    """The state cannot be locked, read, trusted or written; no nonce was issued (I9)."""


class StoreTimeoutError(StoreError, TimeoutError):
    """The store's lock was not free within its timeout."""


class StoreUnavailableError(StoreError):
    """The store is missing, read-only or full, or its disk reports errors."""


class StorePermissionError(StoreError):
    """An owner, a mode, a link or a directory of the store cannot be trusted."""


class StoreUnsupportedError(StoreError):
    """The guarantees do not hold on this file system or with this SQLite."""


class StoreVersionError(StoreError):
    """The store was written by a version of this library with another schema."""


class StoreReplacedError(StoreError):
    """A file of the store was deleted or replaced while this process was using it."""


class StoreRolledBackError(StoreError):
    """The database went back to a state older than one that is known to have existed."""


class StoreCorruptError(StoreError):
    """The store is damaged, or is not a store of this library."""
