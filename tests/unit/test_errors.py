"""The tree of errors: one base, builtin bases where callers expect them, all fit to be sent to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from persistent_nonce import errors
from persistent_nonce.errors import NonceError

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("arguments", [(), ("text",), ("text", "a hint")])
def test_pickling(kind: type[NonceError], arguments: tuple[str, ...]) -> None:
    """Each error comes back from pickling and copying with its kind, text and hint."""
    error = kind(*arguments)
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - its own bytes
        assert type(back) is kind
        assert (str(back), back.hint, back.args) == (str(error), error.hint, error.args)


@pytest.mark.parametrize("kind", ALL)
def test_hint(kind: type[NonceError]) -> None:
    """The text ends with the hint in brackets, or stands alone when there is none."""
    assert str(kind("text", "do this")) == "text (do this)"
    assert kind("text", "do this").hint == "do this"
    assert kind("text", "do this").args == ("text", "do this")
    assert str(kind("text")) == "text"
    assert kind("text").hint == ""
    assert str(kind()) == ""


def test_tree() -> None:
    """Every error has the place that callers rely on."""
    parents = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in ALL
        if kind is not NonceError
    }
    below_call = (
        "GateTimeoutError LockedOutError KeyClosedError NestedCallError ForkedCallError"
    )
    below_store = (
        "StoreTimeoutError StoreUnavailableError StorePermissionError "
        "StoreUnsupportedError StoreVersionError StoreReplacedError "
        "StoreRolledBackError StoreCorruptError"
    )
    assert parents == {
        "InvalidNonceError": "NonceError",
        "ExchangeError": "NonceError",
        "NonceRangeError": "NonceError",
        "ConfigurationError": "NonceError",
        "UnitMismatchError": "ConfigurationError",
        "CallError": "NonceError",
        "StoreError": "NonceError",
        **dict.fromkeys(below_call.split(), "CallError"),
        **dict.fromkeys(below_store.split(), "StoreError"),
    }


@pytest.mark.parametrize("kind", ALL)
def test_builtin_bases(kind: type[NonceError]) -> None:
    """Timeouts are TimeoutError, configuration errors are ValueError, and nothing else is either."""
    name = kind.__name__
    assert issubclass(kind, TimeoutError) == name.endswith("TimeoutError")
    assert issubclass(kind, ValueError) == (
        name in ("ConfigurationError", "UnitMismatchError")
    )


def test_the_tree_is_drawn_whole() -> None:
    """The drawing at the top of the module names each error, and the module exports each."""
    assert errors.__doc__ is not None
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == set(errors.__all__)
    for name in defined:
        assert name in errors.__doc__
