"""What a nonce costs with many keys and after many nonces of one key, and a call with many on record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from _bench_gate import records
from _bench_table import Operation, Row, Size, Times, always, in_turns, single, turn

from persistent_nonce import NonceProvider, SQLiteStore

__all__ = ["growth"]

#: Keys that are drawn from by turns before the next ones are.
_TOGETHER: Final = 100


def growth(directory: Path, size: Size) -> list[Row]:
    """Draw with many keys and after many nonces, and pass with many calls on record."""
    rows = _keys(directory, size) + _many(directory / "many.db", size)
    (directory / "calls").mkdir()
    return rows + records(directory / "calls", size)


def _keys(directory: Path, size: Size) -> list[Row]:
    """Draw of one key, and of all keys by turns, in databases of other numbers of keys, side by side."""
    stores = [SQLiteStore(directory / f"{count}.db") for count in size.keys]
    rows: list[Row] = []
    keys: dict[int, list[NonceProvider]] = {}
    for store, count in zip(stores, size.keys, strict=True):
        found, row = _fill(store, count, size.patience)
        keys[len(found)] = found
        rows.append(row)
    time.sleep(size.settle)
    names = {count: f"{count:,} key{'s' if count > 1 else ''}" for count in keys}
    for what, operations in (
        ("next()", {names[n]: found[0].next for n, found in keys.items()}),
        ("reserve(1)", {names[n]: _plain(found[0]) for n, found in keys.items()}),
    ):
        times = in_turns({name: always(op) for name, op in operations.items()}, size)
        fewest = next(iter(times))
        for name, here in times.items():
            row = here.row(f"{what} with {name}")
            if name != fewest:
                row = row._replace(
                    ratio=here.median / times[fewest].median,
                    beside=f"as long as with {fewest}",
                    goal="≤ 1.2",
                )
            rows.append(row)
    for count, found in keys.items():
        each = Times([], [])
        for begin in range(0, count, _TOGETHER):
            some = found[begin : begin + _TOGETHER]
            for provider in some:  # its ceiling may be due, which is 5 s ahead
                provider.next()
            for provider in some:
                each.add(single(provider.next))
        rows.append(each.row(f"next() of {names[count]} by turns"))
    for store in stores:
        store.close()
    return rows


def _fill(
    store: SQLiteStore, count: int, seconds: float
) -> tuple[list[NonceProvider], Row]:
    """Begin so many keys, or as many as can be begun in time; the row is that of the last hundred."""
    found: list[NonceProvider] = []
    times = Times([], [])
    begin = time.monotonic()
    while len(found) < count and time.monotonic() - begin < seconds:
        found.append(NonceProvider(store, f"key {len(found)}", unit="ns"))
        times.add(single(found[-1].next))
    last = Times(times.means[-_TOGETHER:], times.singles[-_TOGETHER:])
    note = f"{time.monotonic() - begin:.1f} s for all"
    if len(found) < count:
        note += f"; no time for {count:,}"
    return found, last.row(f"the first nonce of key {len(found):,}", note=note)


def _plain(nonces: NonceProvider) -> Operation:
    return lambda: nonces.reserve(1)


def _many(path: Path, size: Size) -> list[Row]:
    """Draw of one key before and after millions of nonces; see what database and `-wal` take then."""
    with SQLiteStore(path) as store:
        nonces = NonceProvider(store, "key", unit="ns")
        nonces.next()
        time.sleep(size.settle)
        drawing = {"next()": always(nonces.next)}
        before = in_turns(drawing, size)["next()"]
        drawn, spent = turn(nonces.next, size.many, size.patience)
        after = in_turns(drawing, size)["next()"]
        log = path.with_name(path.name + "-wal")
        taken = path.stat().st_size + log.stat().st_size
    what = f"{drawn:,} nonces of one key"
    note = f"drawn in {spent:.1f} s"
    if drawn < size.many:
        note += f"; no time for {size.many:,}"
    return [
        before.row(f"next() before {what}"),
        after.row(f"next() after {what}", beside="before", other=before),
        Row(
            f"database and -wal after {what}",
            taken / 2**20,
            "MiB",
            goal="≤ 8",
            note=note,
        ),
    ]
