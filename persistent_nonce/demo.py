"""The proof a newcomer runs: four bots on one key, first with plain krakenex, then through this library.

All of it happens on this machine, against the simulated exchange, every rule of which holds; its clock and that of
the bots run 20 times as fast as the machine's.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from persistent_nonce.bots import Job
from persistent_nonce.commands.view import calls_table, console, states_text
from persistent_nonce.crew import Crew
from persistent_nonce.errors import ConfigurationError
from persistent_nonce.records import in_doubt
from persistent_nonce.stores.sqlite import SQLiteStore
from persistent_nonce.testing import Arrival, KrakenSimulator

__all__ = ["Column", "holds", "main"]

_SCALE: Final = 20
_BOTS: Final = 4
_CALLS: Final = 50  # of each bot
_ALL: Final = _BOTS * _CALLS

#: Real seconds after which bots that have not come to their end are given up.
_PATIENCE: Final = 120.0

_INTRODUCTION: Final = f"""\
{_BOTS} bots, each a process, share one API key of an exchange that is simulated on this machine.
Each makes {_CALLS} calls, all of them on the second; the clock runs {_SCALE} times as fast as yours.
"""

_REFUSALS: Final = {
    "refused: invalid nonce": "invalid_nonce",
    "refused: rate limit": "rate_limited",
    "refused: locked out after that": "locked_out",
}


class Column(NamedTuple):
    """What came of one kind of bots."""

    arrivals: list[Arrival]  # but for the call in which one was killed
    answered: int  # calls whose reply holds no error
    ended: bool  # all bots came to their end

    def count(self, verdict: str) -> int:
        """Return how many requests met with this verdict."""
        return sum(1 for arrival in self.arrivals if arrival.verdict == verdict)

    @property
    def overlaps(self) -> int:
        """How many requests arrived while another one was in flight."""
        numbers = {arrival.number for arrival in self.arrivals}
        return sum(1 for a in self.arrivals if not numbers.isdisjoint(a.overlapped))

    @property
    def clean(self) -> bool:
        """Whether every call was made, and none refused or in flight beside another."""
        refused = sum(map(self.count, _REFUSALS.values()))
        return (self.ended, self.answered, refused, self.overlaps) == (True, _ALL, 0, 0)


def main() -> int:
    """Run the proof and return 0 if it holds: plain bots are refused, those that use this library never.

    Ctrl-C ends it, and leaves no process and no file behind.

    Raises:
        ConfigurationError: krakenex is not installed.
    """
    if find_spec("krakenex") is None:
        raise ConfigurationError(
            "the demo needs krakenex", "pip install 'persistent_nonce[krakenex]'"
        )
    out = console()
    out.print(_INTRODUCTION)
    with (
        tempfile.TemporaryDirectory(prefix="persistent_nonce-") as directory,
        KrakenSimulator(tier="pro", time_scale=_SCALE) as exchange,
        SQLiteStore(Path(directory) / "nonces.db", clock=exchange.clock) as store,
    ):
        with Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=out,
        ) as progress:
            plain = _trade(exchange, progress, Path(directory) / "plain", None)
            ours = _trade(exchange, progress, Path(directory) / "ours", store)
        out.print(_table(plain, ours))
        _print_state(out, store)
    proven = holds(plain, ours)
    out.print("The proof holds." if proven else "The proof does NOT hold.")
    return 0 if proven else 1


def holds(plain: Column, ours: Column) -> bool:
    """Tell whether the bots with plain krakenex were refused, and those of this library made every call."""
    return plain.count("invalid_nonce") > 0 and ours.clean


def _trade(
    exchange: KrakenSimulator,
    progress: Progress,
    directory: Path,
    store: SQLiteStore | None,
) -> Column:
    """Let one kind of bots make all their calls; one that uses this library is killed half-way."""
    name = "plain krakenex" if store is None else "with persistent_nonce"
    task = progress.add_task(name, total=_ALL)
    job = Job(
        url=exchange.url,
        keys=[exchange.add_key()],
        calls=[_CALLS],
        scale=_SCALE,
        beat=1 / _SCALE,
    )
    directory.mkdir()
    with Crew(exchange, job, count=_BOTS, directory=directory, store=store) as crew:
        ended = crew.work(
            lambda done: progress.update(task, completed=done),
            patience=_PATIENCE,
            kill_after=None if store is None else _ALL // 2,
        )
        answered = sum(1 for done in crew.replies() if not done.reply["error"])
        if crew.killed is not None:
            progress.print(
                f"killed bot {crew.killed.process.pid} in mid-call and started another"
            )
        return Column(crew.arrivals(0), answered, ended)


def _table(plain: Column, ours: Column) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("calls")
    table.add_column("plain krakenex", justify="right")
    table.add_column("with persistent_nonce", justify="right")

    def row(name: str, left: int, right: int, *, bad: bool = True) -> None:
        cells = (Text(str(n), "red" if bad and n else "") for n in (left, right))
        table.add_row(name, *cells)

    row("asked for", _ALL, _ALL, bad=False)
    row("done", plain.answered, ours.answered, bad=False)
    for name, verdict in _REFUSALS.items():
        row(name, plain.count(verdict), ours.count(verdict))
    row("in flight beside another", plain.overlaps, ours.overlaps)
    return table


def _print_state(out: Console, store: SQLiteStore) -> None:
    """Print the calls left in doubt, and what `show` would say."""
    states = [*map(store.read, store.keys())]
    doubtful = [call for call in store.calls(limit=2 * _ALL) if in_doubt(call)]
    out.print("\nLeft in doubt, `persistent-nonce calls --in-doubt`:")
    out.print(calls_table(doubtful, states, store.now()))
    out.print("\nThe state, `persistent-nonce show`:")
    out.print(states_text(states, store.now(), store.path))
    out.print()
