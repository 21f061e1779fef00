"""A rebuilt database and who uses it: calls in flight, closed keys, programs that have the old one open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from persistent_nonce.errors import (
    KeyClosedError,
    StoreReplacedError,
    StoreUnavailableError,
)
from persistent_nonce.gate import CallGate
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, fingerprint
from persistent_nonce.stores.marks import path_of
from persistent_nonce.stores.rebuild import rebuild
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support import databases
from tests.support.files import wait_for_tick
from tests.support.rebuilding import done, goes_on_above, use

path = databases.path


def test_program_in_a_call(path: Path) -> None:
    """As long as somebody makes calls with the store, it is not rebuilt under their feet (I5)."""
    use(path)
    path_of(path).write_bytes(b"damage" * 20)
    with SQLiteStore(path) as store:
        store.session()
        with pytest.raises(StoreUnavailableError, match="still makes calls"):
            rebuild(path, shared=False)
    assert rebuild(path, shared=False) is not None


def test_program_that_takes_nonces(path: Path) -> None:
    """Who has the old database open gets no nonce from it any more, and has to start again (I1)."""
    last = use(path)
    with SQLiteStore(path) as store:
        provider = NonceProvider(store, "one")
        provider.next()
        wait_for_tick(path.parent)
        path_of(path).write_bytes(b"damage" * 20)
        assert rebuild(path, shared=False) is not None
        with pytest.raises(StoreReplacedError):
            provider.next()
    goes_on_above(path, last)


def test_call_in_flight_and_closed_key(path: Path) -> None:
    """A call that was in flight stands in the record as interrupted, and a closed key stays closed (I5)."""
    use(path)
    pid = os.fork()
    if not pid:
        try:
            store = SQLiteStore(path)
            store.update(
                fingerprint("two"),
                lambda state, _: Changed(state._replace(closed=True, diagnosis="why")),
            )
            call = CallGate(store, "one").call("AddOrder")
            call.__enter__()  # dropped, it would end
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    path_of(path).write_bytes(b"damage" * 20)
    rebuilt = done(path)
    with SQLiteStore(path) as store:
        calls = store.calls(fingerprint("one"))
        assert (calls[0].method, calls[0].outcome) == ("AddOrder", "interrupted")
        with pytest.raises(KeyClosedError, match="why"):
            NonceProvider(store, "two").next()
    assert sum(key.state.closed for key in rebuilt.keys) == 1
