"""A process that dies in its call: what others see of its order, and how that is settled."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.commands.facts import moment
from persistent_nonce.state import Running, fingerprint
from persistent_nonce.stores.sessions import pid_of
from persistent_nonce.testing import KrakenSimulator
from tests.support import databases
from tests.support.doubting import command_line, hold, look
from tests.support.processes import Children
from tests.support.raw_calls import HANG
from tests.support.simulated import LIMIT
from tests.support.trading import GUARD, client, until

children = databases.children

#: An order whose numbers are found wherever they are written.
TRACED: Final = {
    **LIMIT,
    "pair": "ETHCHF",
    "price": "31337.7",
    "volume": "0.0424242",
    "cl_ord_id": "the-callers-own-id",
}


def check_commands(store: SQLiteStore, running: Running) -> None:
    """Check what commands of another process tell of a call whose process has died."""
    (shown,) = json.loads(command_line(store, "calls", "--in-doubt", "--json"))
    assert shown["in_doubt"] is True
    assert shown["outcome"] == "interrupted"
    assert (shown["method"], shown["nonce"]) == ("AddOrder", str(running.nonce))
    assert (shown["at"], shown["pid"]) == (moment(running.at), pid_of(running.session))
    assert shown["reference"] == "cl_ord_id=the-callers-own-id"
    (line,) = command_line(store, "calls", "--in-doubt").splitlines()[1:]
    assert "interrupted (in doubt)" in line
    day, _, time = shown["at"].partition("T")
    time = time.replace("+00:00", "Z")
    said = {day, time, "AddOrder", shown["nonce"], shown["reference"]}
    assert said <= set(line.split())


def check_files(directory: Path) -> None:
    """Check that of the order nothing but its id was written."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files)
    assert b"the-callers-own-id" in written
    for name in ("pair", "price", "volume"):
        assert TRACED[name].encode() not in written, name


@pytest.mark.parametrize("arrives", [True, False], ids=["arrives", "never arrives"])
def test_a_process_dies_between_its_turn_and_the_reply(
    arrives: bool, children: Children, tmp_path: Path
) -> None:
    """Others see what it was doing, by method, nonce, time and the caller's own id, and nothing else of the order."""
    scale = 100
    with (
        KrakenSimulator(tier="pro", time_scale=scale, latency=0) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
        socket.create_server(("127.0.0.1", 0)) as deaf,
    ):
        account = exchange.add_key()
        key = fingerprint(account.key)
        deaf.settimeout(GUARD)
        exchange.inject(HANG, method="AddOrder")
        url = exchange.url if arrives else f"http://127.0.0.1:{deaf.getsockname()[1]}"
        begun = exchange.clock.wall()
        child = children.call(hold, store.path, url, scale, TRACED)
        child.tell(" ".join(account))
        if arrives:
            until(lambda: exchange.stats(account.key).requests, "the request")
            child.kill()
        else:
            connection, _ = deaf.accept()
            child.kill()
            connection.close()
        running = store.read(key).running
        assert running is not None
        assert begun < running.at < exchange.clock.wall()
        assert pid_of(running.session) == child.pid
        check_commands(store, running)
        other = children.call(look, store.path, exchange.url, scale)
        other.tell(" ".join(account))
        at, name = running.at / SECOND, "the-callers-own-id"
        shown = ["AddOrder", running.nonce, at, "interrupted", name, None]
        assert other.result() == [[running.id, *shown]]
        (record,) = store.calls(key)
        assert (record.method, record.nonce) == ("AddOrder", running.nonce)
        assert (record.at, record.outcome) == (running.at, "interrupted")
        check_files(tmp_path)
        # At the exchange, once it is too late for it to be executed.
        late = running.since + (record.took or 0) + 121 * SECOND
        until(lambda: exchange.clock.mono() > late, "what is too late")
        api = client(exchange, account, store)
        (settled,) = api.reconcile()
        assert settled.outcome == ("executed" if arrives else "not_executed")
        assert len(exchange.orders(account.key)) == arrives
        assert json.loads(command_line(store, "calls", "--in-doubt", "--json")) == []
