"""A foreign program raises the floor of a key that bots in several processes use: healed together, or closed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from persistent_nonce import SQLiteStore
from persistent_nonce.clock import SECOND
from persistent_nonce.state import KeyState, fingerprint
from persistent_nonce.testing import Arrival, Credentials, KrakenSimulator
from tests.support.paced_bots import Asked, Bot, Told, command, errors, nonces, start
from tests.support.processes import Children
from tests.support.simulated import LIMIT

PROCESSES: Final = 4

ORDER: Final[Asked] = ("AddOrder", LIMIT)

#: Ticks of a key in ms that lie between two of its nonces only after a jump.
JUMP: Final = 59_000

#: Seconds that a nonce may have been on its way.
SLACK: Final = 5.0


def together(bots: Sequence[Bot], *calls: Asked | str) -> list[Told]:
    """Let all bots make these calls at once, and return what became of them."""
    for bot in bots:
        bot.tell(*calls)
    return [told for bot in bots for told in bot.told()]


def jumps(arrivals: Sequence[Arrival]) -> list[tuple[float, float]]:
    """Return by how many seconds, at least and at most, the nonces of a key in ms jumped: time passes in between."""
    found = []
    for before, after in itertools.pairwise(arrivals):
        assert before.nonce is not None
        assert after.nonce is not None
        gap, passed = after.nonce - before.nonce, (after.at - before.at) / SECOND
        if gap > JUMP:
            found.append((gap / 1000 - passed - SLACK, gap / 1000))
    return found


@pytest.mark.parametrize(
    ("ahead", "scale", "expected", "counts_itself"),
    [(45.0, 5, [60], True), (300.0, 10, [60, 600], False)],
    ids=["45 s", "5 min"],
)
def test_a_raised_floor_is_healed_for_all_processes(
    ahead: float,
    scale: int,
    expected: list[int],
    tmp_path: Path,
    *,
    counts_itself: bool,
) -> None:
    """A floor 45 s ahead costs one refusal and one jump in all, one 5 min ahead two; then it is verified, once."""
    with (
        KrakenSimulator(
            tier="pro", time_scale=scale, latency=0.005, counts_itself=counts_itself
        ) as exchange,
        SQLiteStore(tmp_path / "nonces.db", clock=exchange.clock) as store,
        Children() as children,
    ):
        account = exchange.add_key()
        bots = start(children, exchange, store, [account] * PROCESSES, tier="pro")
        assert errors([bot.ask("Balance") for bot in bots]) == []
        exchange.raise_floor(account.key, by_seconds=ahead)
        told = together(bots, ORDER, "Balance", "OpenOrders")
        assert errors(told) == []
        stats = exchange.stats(account.key)
        assert stats.refused_nonce == len(expected)
        refused = [a.verdict for a in stats.arrivals].index("invalid_nonce")
        found = jumps(stats.arrivals[refused:])
        assert len(found) == len(expected)
        for seconds, (least, most) in zip(expected, found, strict=True):
            assert least <= seconds <= most
        assert Counter(arrival.method for arrival in stats.arrivals[PROCESSES:]) == {
            "AddOrder": PROCESSES + len(expected),
            "Balance": PROCESSES,
            "OpenOrders": PROCESSES,
            "GetApiKeyInfo": 1,
        }
        assert stats.requests == stats.accepted + len(expected)
        assert len(exchange.orders(account.key)) == PROCESSES
        state = store.read(fingerprint(account.key))
        assert (state.refusals, state.closed) == (0, False)
        assert state.diagnosis.startswith(
            f"nonces were refused until a jump to {state.jumped_at}, so another program"
        )


@pytest.fixture
def exchange() -> Iterator[KrakenSimulator]:
    """Run an exchange by the machine's clock, which the command line has too."""
    with KrakenSimulator(tier="pro", latency=0.005) as simulator:
        yield simulator


def plain(text: str) -> str:
    """Return a text as one line, however it was wrapped."""
    return " ".join(text.split())


def check_closed(
    state: KeyState, exchange: KrakenSimulator, account: Credentials
) -> None:
    """Check that a key is closed with the words that fit the three refusals of a floor in a finer unit (I10)."""
    arrivals = exchange.stats(account.key).arrivals
    (*_, last) = refused = [a for a in arrivals if a.verdict == "invalid_nonce"]
    assert len(refused) == 3
    assert state.closed
    assert state.nonce <= state.bound
    assert last.nonce is not None
    assert last is arrivals[-1]  # nothing was sent after it
    found = re.fullmatch(
        r"3 nonces in a row were refused, also after a jump to (\d+); the last was (\d+) in ms, (\d+) s ahead of the "
        r"clock\. Another program has used this key with nonces still further ahead, probably in a finer unit \(us, "
        r"10ns, ns\): stop it, or give it a key of its own; then set-unit to the unit it counts in, or raise-floor "
        r"above its nonces, or create a new key",
        state.diagnosis,
    )
    assert found is not None, state.diagnosis
    assert int(found[2]) == last.nonce
    assert int(found[1]) < last.nonce
    assert int(found[3]) <= 900  # with a factor of 100 only the bound keeps it there
    first, second = jumps(refused)
    assert first[0] <= 60 <= first[1]
    assert second[1] >= 600


@pytest.mark.parametrize(
    ("remedy", "factor"), [("set-unit", 10.0), ("raise-floor", 100.0)]
)
def test_a_floor_in_a_finer_unit_closes_the_key_until_somebody_acts(
    remedy: str, factor: float, exchange: KrakenSimulator, tmp_path: Path
) -> None:
    """Three refusals in all, then no process sends a call, and show and doctor say why; a command opens the key."""
    path = tmp_path / "nonces.db"
    with SQLiteStore(path) as store, Children() as children:
        account = exchange.add_key()
        key = fingerprint(account.key)
        bots = start(
            children,
            exchange,
            store,
            [account] * PROCESSES,
            recovery={"wait": 0.5, "factor": factor},  # the wait is 30 in earnest
            min_interval=0.02,
        )
        assert errors([bot.ask("Balance") for bot in bots]) == []
        floor = exchange.raise_floor(account.key, by_seconds=0, unit="us")
        told = together(bots, ORDER, "Balance")
        state = store.read(key)
        check_closed(state, exchange, account)
        said = Counter(errors(told))
        # Who is refused has the exchange's own reply; who was still waiting is told that the key is closed.
        assert set(said) == {"EAPI:Invalid nonce", "KeyClosedError"}
        assert said["EAPI:Invalid nonce"] <= 3
        assert said.total() == 2 * PROCESSES
        closed = [call for call in told if call.raised]
        assert all("ConnectTimeout" in call.raised for call in closed)
        assert all(state.diagnosis in call.text for call in closed)
        assert exchange.orders(account.key) == []

        shown = command("show", key, "--db", path)
        assert state.diagnosis in plain(shown.stdout)
        doctor = command("doctor", "--db", path)
        assert doctor.returncode == 1
        assert f"closed: {state.diagnosis}" in plain(doctor.stdout)
        check_closed(store.read(key), exchange, account)

        value = "us" if remedy == "set-unit" else floor
        done = command(remedy, key, value, "--db", path)
        assert (done.returncode, done.stderr) == (0, "")
        before = exchange.stats(account.key).requests
        told = together(bots, ORDER, "Balance")
        assert errors(told) == []
        after = exchange.stats(account.key).arrivals[before:]
        assert {arrival.verdict for arrival in after} == {"accepted"}
        assert len(after) == 2 * PROCESSES
        assert min(nonces(after)) > floor
        assert len(exchange.orders(account.key)) == PROCESSES
        state = store.read(key)
        assert (state.closed, state.diagnosis, state.refusals) == (False, "", 0)
        assert state.nonce <= state.bound
