"""The modules that stand in ccxt's place have its names: a bot catches `ccxt.NetworkError`."""

from __future__ import annotations

import importlib

import ccxt
import ccxt.pro
import pytest

from tests.unit.test_import import told


@pytest.mark.parametrize("module", ["", ".async_support", ".pro"])
def test_what_a_bot_finds_in_ccxt(module: str) -> None:
    """Errors, other exchanges, and the list of them are ccxt's own; kraken is ours."""
    ours = importlib.import_module(f"persistent_nonce.adapters.ccxt{module}")
    theirs = importlib.import_module(f"ccxt{module}")
    assert ours.NetworkError is ccxt.NetworkError
    assert ours.DDoSProtection is ccxt.DDoSProtection
    assert ours.exchanges is theirs.exchanges
    assert ours.bitstamp is theirs.bitstamp
    assert ours.kraken.__module__ == ours.__name__
    with pytest.raises(AttributeError, match="nothing"):
        ours.nothing  # noqa: B018 - it is looked up


def test_no_kraken_without_a_gate() -> None:
    """The modules for a loop are ours or none: ccxt's own would send past the queue."""
    source = (
        "import ccxt.async_support, ccxt.pro\n"
        "from persistent_nonce.adapters import ccxt\n"
        "print(hasattr(ccxt, 'async_support'), hasattr(ccxt, 'pro'), flush=True)\n"
    )
    assert told(source) == "False False"
    source = (
        "from persistent_nonce.adapters import ccxt\n"
        "from persistent_nonce.adapters.ccxt import async_support, pro\n"
        "print(ccxt.async_support is async_support, ccxt.pro is pro, flush=True)\n"
    )
    assert told(source) == "True True"
