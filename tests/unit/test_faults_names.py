"""Hostile keys, labels and methods: refused in one line, or used as they are and logged in one line (fault A29)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given

from persistent_nonce import CallGate, InvalidNonceError, SQLiteStore
from persistent_nonce.errors import ConfigurationError, NonceError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.state import Changed, KeyState, fingerprint
from tests.property.test_place_properties import names
from tests.support.faulting_sizes import LONG

pytestmark = pytest.mark.timeout(LONG)

_LOGGER: Final = logging.getLogger("persistent_nonce")


class Lines(logging.Handler):
    """Keeps what is logged, as a file would get it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one event."""
        self.lines.append(self.format(record))


@pytest.fixture(scope="module")
def store() -> Iterator[SQLiteStore]:
    """Yield one store for all examples."""
    with tempfile.TemporaryDirectory() as directory:
        inner = Path(directory) / "inner"
        inner.mkdir(0o700)
        with SQLiteStore(inner / "state") as opened:
            opened.session()
            yield opened


def attempt(use: Callable[[], object]) -> list[str]:
    """Use the library, and return what it said: its errors and what it logged."""
    handler, level = Lines(), _LOGGER.level
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.DEBUG)
    try:
        use()
    except NonceError as error:
        handler.lines.append(str(error))
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
    return handler.lines


@given(key=names, label=names, method=names)
@example(key="k", label="main", method="Balance")
@example(key="../x", label="../x", method="../x")
@example(key="k\nWARNING key is closed", label="a\nb", method="a\nb")
@example(key="'; DROP TABLE keys; --", label="'; DROP TABLE keys; --", method="'; --")
@example(key="\0", label="\0", method="\0")
@example(key="y" * 10_000, label="y" * 10_000, method="y" * 10_000)
@example(key="\ud800", label="\u202e", method="B\u0430lance")
@example(key="%s%n", label="{x}", method="%(message)s")
def test_hostile_keys_labels_and_methods(
    store: SQLiteStore, key: str, label: str, method: str
) -> None:
    """Each is refused, or known literally; whatever is logged or raised is one line of printable text (I9, I11)."""
    root = store.path.parents[1]
    before = sorted(root.rglob("*"))

    def use() -> None:
        nonces = NonceProvider(store, key, label=label, unit="ns")
        assert nonces.next() < nonces.next()
        assert store.read(fingerprint(key)).label == label

    def call() -> None:
        gate = CallGate(store, key, min_interval=0.0, unit="ns")
        with suppress(InvalidNonceError), gate.call(method):
            raise InvalidNonceError
        store.update(gate.key, lambda state, now: _rested(state))
        newest = store.calls(gate.key, 1)
        assert [record.method for record in newest] == [method]

    said = attempt(use) + attempt(call)
    for line in said:
        assert line.isprintable()
        assert len(line) < 1_000
        assert len(key) < 8 or key in label + method or key not in line
    assert sorted(root.rglob("*")) == before


def _rested(state: KeyState) -> Changed:
    """Forget a refusal, so that the next example does not wait."""
    return Changed(
        state._replace(refusals=0, not_before=0, set_at=0, closed=False, diagnosis="")
    )


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u2028", "x" * 65, "", " a"])
def test_refused_labels_and_methods(store: SQLiteStore, name: str) -> None:
    """What would break a line, a terminal or the eye is refused as a label and as a method."""
    with pytest.raises(ConfigurationError):
        NonceProvider(store, "key", label=name)
    with pytest.raises(ConfigurationError):
        CallGate(store, "key").call(name)
