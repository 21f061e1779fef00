"""Orders whose bytes are sent twice: no refusal of the second sending says anything of the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from requests.adapters import HTTPAdapter

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.state import fingerprint
from persistent_nonce.testing import KrakenSimulator
from tests.support.resending import Answer, Eager, between, eager
from tests.support.simulated import LIMIT
from tests.support.trading import client

REFUSED: Final = {"error": ["EAPI:Invalid nonce"]}
ORDER: Final = {**LIMIT, "cl_ord_id": "sent-twice"}


class Insistent(HTTPAdapter):
    """An adapter of a program's own, which sends what failed again by itself."""

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        """Send it up to twice."""
        reply = super().send(request, *arguments, **options)
        if reply.status_code == 200:
            return reply
        return super().send(request, *arguments, **options)


@contextmanager
def behind(
    tmp_path: Path, answer: Answer, adapter: HTTPAdapter | None
) -> Iterator[tuple[API, KrakenSimulator]]:
    """Put something that answers in its own way between a client, with an adapter of its own, and the exchange."""
    with (
        KrakenSimulator(latency=0) as exchange,
        between(exchange.url, answer) as url,
        SQLiteStore(tmp_path / "nonces.db") as store,
    ):
        api = client(exchange, exchange.add_key(), store)
        api.uri = url
        if adapter is not None:
            api.session.mount("http://", adapter)
        yield api, exchange


def check_one_order(api: API, exchange: KrakenSimulator, sent: list[str]) -> None:
    """Check that the only call is in doubt, that it was sent as told, and that its one order is found."""
    stats = exchange.stats(api.key)
    assert [(a.method, a.verdict) for a in stats.arrivals] == [
        ("AddOrder", verdict) for verdict in sent
    ]
    assert len({arrival.nonce for arrival in stats.arrivals}) == 1
    (doubted,) = api.in_doubt()
    assert (doubted.outcome, doubted.cl_ord_id) == ("unknown", "sent-twice")
    assert doubted.nonce == stats.nonce
    (settled,) = api.reconcile()
    assert settled.outcome == "executed"
    assert len(exchange.orders(api.key)) == 1


@pytest.mark.parametrize(
    ("answer", "adapter"),
    [
        ("502", Eager()),
        ("lost", Eager()),
        ("502", Insistent()),
        ("307", None),
        ("307", Eager()),
    ],
    ids=["502, retried", "lost, retried", "502, insistent", "307", "307, retries"],
)
def test_a_nonce_refused_at_the_second_sending_is_no_reason_to_try_again(
    answer: Answer, adapter: HTTPAdapter | None, tmp_path: Path
) -> None:
    """The refusal reaches the caller as it is; nothing is sent again, no nonce jumps, and the order exists once."""
    with behind(tmp_path, answer, adapter) as (api, exchange):
        assert api.query_private("AddOrder", ORDER) == REFUSED
        with SQLiteStore(tmp_path / "nonces.db") as store:
            state = store.read(fingerprint(api.key))
        assert (state.refusals, state.jumped_at, state.closed) == (0, 0, False)
        check_one_order(api, exchange, ["accepted", "invalid_nonce"])


@pytest.mark.parametrize("answer", ["502", "lost"])
def test_retries_of_an_ordinary_adapter_send_no_order_again(
    answer: Answer, tmp_path: Path
) -> None:
    """Retries that a program has set on an adapter of requests hold for what reads only: an order is sent once."""
    adapter = HTTPAdapter(max_retries=eager())
    with behind(tmp_path, answer, adapter) as (api, exchange):
        with pytest.raises(requests.RequestException):
            api.query_private("AddOrder", ORDER)
        check_one_order(api, exchange, ["accepted"])


@pytest.mark.parametrize(
    ("answer", "adapter"),
    [("307 to nowhere", None), ("307 to nowhere", Eager()), ("502 and gone", Eager())],
    ids=["307", "307, retries", "502, retried"],
)
def test_no_connection_for_the_second_sending_says_nothing_of_the_first(
    answer: Answer, adapter: HTTPAdapter | None, tmp_path: Path
) -> None:
    """A call that is sent again in vain was sent: it is in doubt, not "not sent"."""
    with behind(tmp_path, answer, adapter) as (api, exchange):
        with pytest.raises(requests.ConnectionError):
            api.query_private("AddOrder", ORDER)
        api.uri = exchange.url
        check_one_order(api, exchange, ["accepted"])
