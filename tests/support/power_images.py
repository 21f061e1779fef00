"""What a disk may hold after a power cut: every write that was not synced is there, or not, or torn.

A `Trace` lists what programs did to the files of one directory; `image` replays it up to a cut.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

__all__ = ["Event", "Trace", "image"]

#: Bytes that a disk writes whole.
_SECTOR: Final = 512

#: The files of SQLite whose every write is in the trace; what is mapped (`-shm`) does not outlast a boot.
_TRACED: Final = ("", "-wal", "-journal")


class Event(NamedTuple):
    """Something that happened to a file, or a promise that was made.

    `write` has an offset and data, `truncate` the length as its offset; `found` is a file that was there when it was
    opened, with its content, `create` one that was not. A `promise` names a key, and as its offset what every later
    nonce of the key exceeds. `delete` is durable if its data says so.
    """

    kind: Literal["found", "create", "write", "truncate", "sync", "delete", "promise"]
    name: str
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Trace:
    """What happened in `directory`, in order, to the database `database` and beside it."""

    directory: Path
    database: str = "nonces.db"
    events: list[Event] = field(default_factory=list)
    #: What lay beside the files of SQLite, and after how many events.
    beside: list[tuple[int, dict[str, bytes]]] = field(default_factory=list)
    #: How many events say what was there at first: no cut is before them.
    begin: int = 0
    #: The program dies instead of doing what would be the event of this number.
    fatal: int | None = None

    def happen(self, event: Event) -> None:
        """Note that a program does something to a file, or let it die before that."""
        if self.fatal is not None and len(self.events) >= self.fatal:
            raise OSError("the program has died")
        self.events.append(event)

    def start(self) -> None:
        """Note what the disk holds before anything happens."""
        for suffix in _TRACED:
            path = self.directory / f"{self.database}{suffix}"
            if path.exists():
                self.events.append(Event("found", path.name, data=path.read_bytes()))
        self.begin = len(self.events)
        self.look()

    @property
    def cuts(self) -> range:
        """The places at which the power may be cut: before each event, and after the last."""
        return range(self.begin, len(self.events) + 1)

    def look(self) -> None:
        """Note what lies beside the files of SQLite."""
        exempt = {f"{self.database}{suffix}" for suffix in (*_TRACED, "-shm")}
        found = {
            str(path.relative_to(self.directory)): path.read_bytes()
            for path in self.directory.rglob("*")
            if path.is_file() and path.name not in exempt
        }
        self.beside.append((len(self.events), found))

    def promise(self, key: str, mark: int) -> None:
        """Note that every nonce of `key` after this exceeds `mark`."""
        self.events.append(Event("promise", key, mark))
        self.look()

    def promises(self, cut: int) -> dict[str, int]:
        """Return what was promised before the `cut`-th event."""
        greatest: dict[str, int] = {}
        for event in self.events[:cut]:
            if event.kind == "promise":
                greatest[event.name] = max(event.offset, greatest.get(event.name, 0))
        return greatest


@dataclass(slots=True)
class _File:
    """A file's content on the disk, what may follow it there, and whether its name does."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    named: bool = False

    def sync(self) -> None:
        for event in self.pending:
            _apply(self.durable, event)
        self.pending = []
        self.named = True

    def after_cut(self, chance: random.Random) -> bytes:
        """Return its content once an arbitrary part of the pending writes has come through, the last ones or others."""
        content = bytearray(self.durable)
        share = chance.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        for event in self.pending:
            if chance.random() < share:
                for part in _torn(event, chance):
                    _apply(content, part)
        return bytes(content)


def _torn(event: Event, chance: random.Random) -> list[Event]:
    """Return the event, or of one write in five the sectors that came through."""
    if event.kind != "write" or chance.random() < 0.8:
        return [event]
    parts = []
    for start in range(0, len(event.data), _SECTOR):
        if chance.random() < 0.5:
            sector = event.data[start : start + _SECTOR]
            parts.append(event._replace(offset=event.offset + start, data=sector))
    return parts


def _apply(content: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
        return
    content.extend(bytes(max(0, event.offset - len(content))))
    content[event.offset : event.offset + len(event.data)] = event.data


def image(trace: Trace, cut: int, chance: random.Random) -> dict[str, bytes]:
    """Return what may be in the directory after a power cut before the `cut`-th event of `trace`."""
    # A name's directory entries in order: the first is on the disk, the others (None: deleted) may follow it.
    entries: dict[str, list[_File | None]] = defaultdict(lambda: [None])
    for event in trace.events[:cut]:
        if event.kind != "promise":
            _replay(event, entries)
    content = _beside(trace, cut, chance)
    for name, names in entries.items():
        file = names[chance.randrange(len(names))]
        if file is not None:
            content[name] = file.after_cut(chance)
    return content


def _replay(event: Event, entries: dict[str, list[_File | None]]) -> None:
    names = entries[event.name]
    match event.kind:
        case "found":
            names[:] = [_File(bytearray(event.data), named=True)]
        case "create":
            names.append(_File())
        case "delete":
            names.append(None)
            if event.data:
                _sync_directory(entries)
        case "sync":
            if not _last(names).named:
                _sync_directory(entries)  # as SQLite does with a new file
            _last(names).sync()
        case _:
            _last(names).pending.append(event)


def _sync_directory(entries: dict[str, list[_File | None]]) -> None:
    for names in entries.values():
        del names[:-1]


def _last(names: list[_File | None]) -> _File:
    file = names[-1]
    if file is None:
        raise ValueError("a write to a file that was never opened")
    return file


def _beside(trace: Trace, cut: int, chance: random.Random) -> dict[str, bytes]:
    """Return each file beside those of SQLite in any of the forms it had: nobody has to sync it.

    One that was there from the beginning stays, in an older form perhaps, or with sectors of both.
    """
    looks = [found for after, found in trace.beside if after <= cut]
    content = {}
    for name in sorted({name for found in looks for name in found}):
        old, new = (chance.choice(looks).get(name) for _ in range(2))
        if old is None or new is None:
            kept = looks[0].get(name) if old is None is new else old or new
            if kept is not None:
                content[name] = kept
            continue
        mixed = bytearray(old)
        for start in range(0, len(new), _SECTOR):
            if chance.random() < 0.5:
                sector = Event("write", name, start, new[start : start + _SECTOR])
                _apply(mixed, sector)
        content[name] = bytes(mixed)
    return content
