#!/usr/bin/env python3
"""Show the state of every key in a database of persistent_nonce, where the package is not installed.

    scripts/inspect_state.py [DATABASE] [--calls N]

Needs only Python 3.8 and this file. Takes no lock and leaves no file behind, so it may run beside the bots.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sqlite3
import sys
import time
import unicodedata
import zlib
from pathlib import Path
from urllib.parse import quote

#: Nanoseconds in a tick of each unit; a key without one counts in ms.
TICKS = {"s": 10**9, "ms": 10**6, "us": 1000, "10ns": 10, "ns": 1, None: 10**6}

APPLICATION = 0x504E6F6E


def default_database() -> str:
    """Return where the library keeps the state of this user, unless PERSISTENT_NONCE_DB says otherwise."""
    place = ".local/state"
    if sys.platform == "darwin":
        place = "Library/Application Support"
    home = pwd.getpwuid(os.getuid()).pw_dir
    chosen = os.environ.get("PERSISTENT_NONCE_DB")
    return chosen or os.path.join(home, place, "persistent_nonce", "nonces.db")


def read(path: str, count: int) -> tuple[int, list[sqlite3.Row], list[sqlite3.Row]]:
    """Return the schema's version, the rows of all keys, and the `count` newest calls.

    With a `-wal` beside it the database is in use, or was left by a crash. Without one, opening it the usual way would
    create files; so would reading a `-wal` whose `-shm` is missing.
    """
    how = "mode=ro"
    if not os.path.exists(path + "-wal"):
        how += "&immutable=1"
    elif not os.path.exists(path + "-shm"):
        raise SystemExit(f"error: {path} was copied without its -shm; open it to write")
    connection = sqlite3.connect(f"file:{quote(path)}?{how}", uri=True, timeout=1)
    connection.row_factory = sqlite3.Row
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise SystemExit(f"error: {path} is no database of persistent_nonce")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        keys = connection.execute('SELECT * FROM keys ORDER BY "key"').fetchall()
        order = 'SELECT * FROM calls ORDER BY "at" DESC, "nonce" DESC LIMIT ?'
        return version, keys, connection.execute(order, (count,)).fetchall()
    finally:
        connection.close()


def is_whole(row: sqlite3.Row, version: int) -> bool:
    """Tell whether no bit of a key's row has changed since it was written."""
    *values, check = tuple(row)
    text = "\x1f".join(map(str, values)).encode("utf-8", "surrogatepass")
    return zlib.crc32(text, version) == check


def show_key(row: sqlite3.Row, version: int) -> None:
    """Print what is known of a key."""
    wall = time.time_ns()
    unit, nonce = row["unit"], row["nonce"]
    lead = (nonce * TICKS[unit] - wall) / 1e9
    print(f"\nkey {row['key']}  {clean(row['label'])}".rstrip())
    print(f"  row        {'whole' if is_whole(row, version) else 'DAMAGED'}")
    print(f"  unit       {unit or 'ms'}")
    print(f"  nonce      {nonce or 'none yet'}")
    print(f"  ceiling    {row['ceiling']} (synced {row['synced']})")
    if nonce:
        print(f"  lead       {lead:+.1f} s")
    print(f"  in flight  {running(row['running'])}")
    print(f"  queue      {len(json.loads(row['queue'] or '[]'))} waiting")
    print(f"  tier       {clean(row['tier']) or 'none'}")
    left = (row["not_before"] - wall) / 1e9
    back_off = f"{left:.1f} s left: {clean(row['reason'])}" if left > 0 else "none"
    print(f"  back-off   {back_off}")
    print(f"  refusals   {row['refusals']} in a row")
    if row["closed"]:
        print(f"  CLOSED     {clean(row['diagnosis'])}")


def running(text: str) -> str:
    """Return what is known of the call in flight."""
    if not text:
        return "nothing"
    _, session, method, _, nonce, at, *_ = json.loads(text)
    pid = session.split("-")[0]
    return f"{clean(method)} of process {pid} since {moment(at)}, nonce {nonce}"


def show_call(row: sqlite3.Row) -> None:
    """Print a line about a call."""
    took = "-" if row["took"] is None else f"{row['took'] / 1e9:.3f} s"
    print(
        f"{moment(row['at'])}  {row['key']}  {clean(row['method'])}  {row['nonce']}"
        f"  waited {row['waited'] / 1e9:.3f} s  took {took}  {row['outcome']}"
    )


def moment(wall: int) -> str:
    """Return a reading of the wall clock, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall // 10**9))


def clean(text: str) -> str:
    """Return `text` with each sign that a terminal may obey as an escape."""
    return "".join(
        sign
        if sign == " " or unicodedata.category(sign)[0] not in "CZ"
        else sign.encode("unicode_escape").decode("ascii")
        for sign in text
    )


def main() -> int:
    """Print the state and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("database", nargs="?", help="default: the one in your home")
    parser.add_argument(
        "--calls", type=int, default=0, metavar="N", help="newest calls"
    )
    arguments = parser.parse_args()
    path = os.path.realpath(arguments.database or default_database())
    if not Path(path).is_file():
        raise SystemExit(f"error: there is no database {clean(path)}")
    try:
        version, keys, calls = read(path, max(0, arguments.calls))
    except sqlite3.Error as error:
        raise SystemExit(f"error: {clean(path)}: {error}") from None
    print(clean(path))
    for row in keys:
        show_key(row, version)
    if not keys:
        print("\nno key has been used yet")
    if calls:
        print()
    for row in calls:
        show_call(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
