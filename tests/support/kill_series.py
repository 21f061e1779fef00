"""A work that is killed at each of its points in turn."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any, Final

from tests.support.doomed_works import Tell
from tests.support.judging import Trials
from tests.support.killing import Doom, forked

__all__ = ["series"]

#: More points than any work has: a guard against one that never comes to its end.
_MOST: Final = 5_000


def series(name: str, directory: str, again: int, compound: bool) -> dict[str, Any]:
    """Kill the work `name` at each of its points, until it comes to its end unharmed.

    Args:
        name: of one of WORKS.
        directory: where the databases are made.
        again: how many victims die at a point, the later ones in what the earlier left.
        compound: the next process is killed too, at a random point, before one is left alone.

    Returns:
        Points at which one died, the census of all in the work that came to its end, what was wrong, and whether it
        did end.
    """
    logging.disable()  # each death is logged by whoever finds it
    trials = Trials(name, Path(directory))
    chance = random.Random(Path(directory).name)  # the same in each run
    points: list[str] = []
    census: list[str] = []
    number, ended = 0, False
    while not ended and not trials.wrong and number < _MOST:
        number += 1
        for _ in range(again):
            more = [chance.randint(1, max(number, 20))] if compound else []
            deaths = [_die(trials, each) for each in (number, *more)]
            ended = "end" in deaths[0]
            point = [line[6:] for line in deaths[0] if line.startswith("point ")]
            trials.judge(f"{number}, {point}, {more}", deaths)
            points += point
            print(number, flush=True)  # noqa: T201 - whoever waits for the result sees that it goes on
            census = [line[7:] for line in deaths[0] if line.startswith("census ")]
    left = [len(list(d.iterdir())) for d in Path(directory).glob("*.sessions")]
    return {
        "points": points,
        "census": census,
        "wrong": trials.wrong,
        "ended": ended,
        "session files": max(left, default=0),
    }


def _die(trials: Trials, number: int) -> list[str]:
    """Have a victim die at a point, and return what it told."""

    def work(tell: Tell) -> None:
        trials.work(trials.victim(Doom(number, tell), tell))

    lines, killed = forked(work)
    if not killed and lines[-1] != "end":
        trials.wrong.append(f"at {number}, unharmed: {lines[-1]}")
        lines.append("end")
    return lines
