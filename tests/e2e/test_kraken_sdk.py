"""python-kraken-sdk's clients through the gate, against the simulated exchange: what they give, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from kraken import exceptions, spot

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters import kraken_sdk
from persistent_nonce.errors import KeyClosedError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.testing import Credentials, KrakenSimulator
from tests.support import sdk, trading
from tests.support.sdk import Asker, Desk, connected
from tests.support.simulated import LIMIT
from tests.support.trading import Aside

#: Ticks of a nonce in a second.
TICKS: Final = {"10ns": 10**8, "ms": 10**3}


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange on which every rule holds, 20 times as fast."""
    with KrakenSimulator(tier="pro", time_scale=20, latency=0) as simulator:
        yield simulator


account, store = trading.account, trading.store
desk = sdk.desk


def shape(value: Any) -> Any:
    """Return what two accounts' results have in common."""
    if isinstance(value, dict):
        return sorted((k if len(k) < 15 else "id", shape(v)) for k, v in value.items())
    if isinstance(value, list):
        return [shape(v) for v in value]
    return type(value).__name__


def play(module: Any, url: str, account: Credentials, **options: Any) -> list[Any]:
    """Make a bot's ordinary calls by the public methods of its clients."""
    given = {"key": account.key, "secret": account.secret, "url": url, **options}
    user, trade, market = (
        module.User(**given),
        module.Trade(**given),
        module.Market(url=url),
    )
    placed = trade.create_order(
        ordertype="limit", side="buy", pair="XBTUSD", volume="1.25", price="37500"
    )
    (txid,) = placed["txid"]
    return [
        placed,
        market.get_system_status(),
        user.get_account_balance(),
        user.get_open_orders(trades=True),
        user.get_orders_info(txid=txid),
        trade.cancel_order(txid=txid),
        user.get_closed_orders(),
        user.get_trades_history(),
        user.get_ledgers_info(),
    ]


@pytest.mark.parametrize("desk", ["sync"], indirect=True)
def test_ordinary_results_are_python_kraken_sdk_s(desk: Desk) -> None:
    """A bot's calls by the public methods give what they give without the library, and are all on record."""
    url, other = desk.exchange.url, desk.exchange.add_key()
    ours = play(kraken_sdk, url, desk.account, store=desk.store, gate_timeout=3600.0)
    theirs = play(spot, url, other)
    assert [shape(result) for result in ours] == [shape(result) for result in theirs]
    assert [outcome for _, outcome in desk.outcomes] == ["ok"] * 8
    desk.check_order()


@pytest.mark.parametrize(
    "options",
    [{}, {"return_raw": True}, {"do_json": True}, {"use_custom_exceptions": False}],
    ids=str,
)
@pytest.mark.parametrize(
    ("method", "data", "outcome"),
    [
        ("Balance", None, "ok"),
        ("CancelOrder", {"txid": "none"}, "error"),
        ("AddOrder", {**LIMIT, "volume": "much"}, "error"),
        ("Earn/Nothing", {}, "error"),
    ],
    ids=str,
)
def test_replies_and_exceptions_are_unchanged(
    method: str,
    data: dict[str, Any] | None,
    outcome: str,
    options: dict[str, Any],
    desk: Desk,
) -> None:
    """In every form a reply or an exception is python-kraken-sdk's own, sent once, and recorded for what it is."""
    options = dict(options)
    custom = {"use_custom_exceptions": options.pop("use_custom_exceptions", True)}

    def told(asker: Asker) -> Any:
        try:
            result = asker.ask(method, data, **options)
        except Exception as error:  # noqa: BLE001 - whichever it is
            return type(error), str(error)
        return result if isinstance(result, dict) else asker.read(result)

    with desk.sdk(**custom) as asker:
        ours = told(asker)
    with desk.plain(**custom) as asker:
        assert ours == told(asker)
    assert desk.outcomes == [(method, outcome)]
    assert desk.stats.requests == 1


@pytest.mark.parametrize(("ahead", "refusals"), [(45.0, 1), (300.0, 2)], ids=str)
def test_a_floor_raised_by_a_foreign_program_is_healed(
    ahead: float, refusals: int, desk: Desk
) -> None:
    """A floor ahead costs a refusal or two, which the caller never sees, and the key is verified (I10)."""
    data, more = dict(LIMIT), {"cl_ord_id": "A1"}
    given: list[bool] = []
    with desk.sdk() as asker:
        asker.ask("Balance")
        prepare = asker.client._prepare_request

        def spy(**call: Any) -> Any:
            given.append("nonce" in call["params"])
            return prepare(**call)

        asker.client._prepare_request = spy
        desk.exchange.raise_floor(desk.account.key, by_seconds=ahead, unit="10ns")
        assert asker.ask("AddOrder", data, extra_params=more)["txid"]
        assert (data, more) == (LIMIT, {"cl_ord_id": "A1"})
    assert given == [False] * (
        2 + refusals
    )  # of no attempt before, which a GET would put into its address
    assert desk.outcomes == [
        ("Balance", "ok"),
        *[("AddOrder", "invalid_nonce")] * refusals,
        ("AddOrder", "ok"),
        ("GetApiKeyInfo", "ok"),
    ]
    assert desk.orders == 1
    assert desk.store.read(desk.key).refusals == 0


@pytest.mark.parametrize("kind", sdk.KINDS)
@pytest.mark.parametrize("custom", [True, False])
def test_when_attempts_run_out_the_key_is_closed(
    kind: str, custom: bool, tmp_path: Path
) -> None:
    """A floor an hour ahead: three refusals, python-kraken-sdk's own words, then calls fail unsent in both families."""
    with (
        KrakenSimulator(time_scale=100, latency=0) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
    ):
        desk = Desk(kind, exchange, exchange.add_key(), store)
        exchange.raise_floor(desk.account.key, by_seconds=3600, unit="10ns")
        with desk.sdk(use_custom_exceptions=custom) as asker:
            if custom:
                with pytest.raises(exceptions.KrakenInvalidNonceError):
                    asker.ask("AddOrder", LIMIT)
            else:
                status, body = asker.read(asker.ask("AddOrder", LIMIT))
                assert (status, "EAPI:Invalid nonce" in body) == (200, True)
            for _ in range(2):
                with pytest.raises(KeyClosedError, match="3 nonces in a row") as caught:
                    asker.ask("Balance")
                error = caught.value
                assert isinstance(error, exceptions.KrakenRateLimitExceededError)
        assert desk.stats.requests == 3
        assert desk.outcomes == [("AddOrder", "invalid_nonce")] * 3


@pytest.mark.parametrize("unit", ["10ns", "ms"])
def test_the_unit_of_a_key_is_followed(unit: str, desk: Desk) -> None:
    """A new key is counted in 10ns, as python-kraken-sdk does; one that counts in ms goes on so (I1)."""
    last = 0
    if unit == "ms":
        last = NonceProvider(desk.store, desk.account.key, unit=unit).next()
    with desk.sdk() as asker:
        asker.ask("Balance")
    now = desk.exchange.clock.wall() / 1e9
    assert abs(desk.stats.nonce / TICKS[unit] - now) < 3600
    assert desk.stats.nonce > last
    assert desk.store.read(desk.key).unit == unit


def test_each_key_of_a_client_has_its_own_gate(desk: Desk) -> None:
    """A client that is given another key calls with that one's nonces, on that one's record."""
    desks = [desk, replace(desk, account=desk.exchange.add_key())]
    with desk.sdk() as asker:
        for one in desks * 2:
            asker.be(one.account)
            asker.ask("Balance")
    for one in desks:
        assert one.outcomes == [("Balance", "ok")] * 2
        one.check_order()


def test_the_caller_s_ids_are_on_record(desk: Desk) -> None:
    """An id is found among the parameters and the extra ones, in both their forms, and nothing else is kept (I11)."""
    with desk.sdk() as asker:
        asker.ask("AddOrder", {**LIMIT, "cl_ord_id": "A1"})
        asker.ask("AddOrder", LIMIT, extra_params={"cl_ord_id": "A2"})
        asker.ask("AddOrder", LIMIT, extra_params='{"userref": 3}', do_json=True)
        asker.ask("QueryOrders", {"cl_ord_id": "A1"})
    calls = sorted(desk.store.calls(desk.key), key=lambda call: call.nonce)
    kept = [call.reference for call in calls]
    assert kept == ["cl_ord_id=A1", "cl_ord_id=A2", "userref=3", ""]
    orders = desk.exchange.orders(desk.account.key)
    assert [o.cl_ord_id or o.userref for o in orders] == ["A1", "A2", 3]


@pytest.mark.parametrize("desk", ["sync"], indirect=True)
def test_threads_share_a_client(desk: Desk) -> None:
    """Four threads with one client are served one at a time, in the order of their nonces (I2, I5)."""
    with desk.sdk() as asker:
        asker.client.MAX_SESSION_AGE = -1  # a session of its own for each call

        def trade() -> None:
            for _ in range(5):
                assert asker.ask("Balance")
                assert asker.time()

        for thread in [Aside(trade) for _ in range(4)]:
            thread.result()
    assert desk.stats.requests == 20
    desk.check_order()


@pytest.mark.parametrize("desk", ["async"], indirect=True)
@pytest.mark.parametrize("unit", [None, "us"])
def test_the_token_of_a_websocket_passes_the_gate(unit: str | None, desk: Desk) -> None:
    """The private call of the WebSocket clients has its turn and its nonce like all others."""

    def make() -> Any:
        return kraken_sdk.SpotWSClient(
            *desk.account, store=desk.store, unit=unit, no_public=True
        )

    with connected("async", make) as asker:
        asker.point_to(desk.exchange.url)
        assert asker.result(asker.client.get_ws_token())["token"]
    assert desk.outcomes == [("GetWebSocketsToken", "ok")]
    assert desk.store.read(desk.key).unit == (unit or "10ns")
