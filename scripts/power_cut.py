#!/usr/bin/env python3
"""Cut the power of real writers on a real file system, again and again, and check that no promise is lost (I4).

    scripts/power_cut.py ceiling --cuts 250
    scripts/power_cut.py new --cuts 100 --fs xfs
    scripts/power_cut.py normal --cuts 50

Needs root and loop devices. Exits with 1 if a promise was lost, or if a control did not behave as it must.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.power_disk import missing
from tests.support.power_kinds import KINDS, run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, kind in KINDS.items():
        one = kinds.add_parser(name, help=kind.shows, description=kind.shows)
        one.add_argument("--cuts", type=int, default=50, help="how many (50)")
        one.add_argument("--seed", type=int, default=1, help="of what is random here")
        one.add_argument("--fs", choices=["ext4", "xfs"], default="ext4")
    return parser.parse_args()


def main() -> int:
    """Cut the power as often as was asked for."""
    options = _options()
    kind = KINDS[options.kind]
    lack = missing(options.fs)
    if lack:
        print(f"NOT RUN: {lack}")
        return 0
    begin = time.monotonic()
    figures = run(
        options.kind, cuts=options.cuts, seed=options.seed, file_system=options.fs
    )
    lasted = time.monotonic() - begin
    if not kind.must_lose:  # what a control breaks was to be expected
        print(*figures.broken[:20], sep="\n")
    print(
        f"{options.kind}, {options.fs}, seed {options.seed}: {figures}; {lasted:.0f} s "
        f"(Linux {platform.release()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores)"
    )
    good = kind.held(figures)
    print("all held" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
