"""Real SQLite stores on one database, each standing for a process; a crash leaves what the kernel would leave."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from persistent_nonce.state import Change
from persistent_nonce.stores.base import Store
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.clocks import StillClock
from tests.support.machine_runner import Killed

__all__ = ["Files"]

T = TypeVar("T")


class Files:
    """A directory with one database, and the stores that are open on it.

    A crash closes the descriptors of the lock and of the session, which frees both, and leaves SQLite's connections as
    they are: closing them would tidy up, as a killed process does not. They hold no lock between transactions.

    Args:
        base: where the directory is made.
    """

    def __init__(self, base: Path | None) -> None:
        self._directory = Path(tempfile.mkdtemp(dir=base))
        self._open: list[SQLiteStore] = []
        self._crashed: list[SQLiteStore] = []

    def open(self, clock: StillClock) -> Store:
        """Open the store of one more process."""
        store = SQLiteStore(self._directory / "nonces.db", clock=clock)
        self._open.append(store)
        return store

    def crash(self, store: Store) -> None:
        """Do what the kernel does when the process of `store` is gone."""
        crashed = cast("SQLiteStore", store)
        crashed._state = "closed"
        crashed._pending.clear()
        crashed._lock.close()
        crashed._presence.abandon()
        self._open.remove(crashed)
        self._crashed.append(crashed)

    def end(self, store: Store) -> None:
        """Do what a program does at its end, and the kernel after it: a session with calls lives until then."""
        ended = cast("SQLiteStore", store)
        ended._quit()
        ended._presence.abandon()
        self._open.remove(ended)

    def arm(self, store: Store, point: int) -> None:
        """Let the process of `store` end before number `point` of what its next transactions write."""
        writer, left = cast("SQLiteStore", store)._writer, point

        def counted(work: Callable[..., T]) -> Callable[..., T]:
            def count(*arguments: Any, **named: Any) -> T:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return work(*arguments, **named)

            return count

        writer._execute = counted(writer._execute)
        # Between a commit and its mark: whoever comes next must not rely on a mark that is late.
        setattr(writer._marks, "write", counted(writer._marks.write))  # noqa: B010 - mypy refuses to assign to a method

    def later(self, store: Store, key: str, change: Change) -> Callable[[], None]:
        """Keep `change` as `store.later` does, and return what its thread would do."""
        owner = cast("SQLiteStore", store)
        owner._pending.append((key, change))
        return owner._try_drain

    def waiting(self, store: Store) -> Iterable[tuple[str, Change]]:
        """Return the changes that wait to be made later."""
        return cast("SQLiteStore", store)._pending

    def close(self) -> None:
        """Close everything and remove the directory."""
        for store in [*self._open]:
            store._pending.clear()
            self.end(store)
        for store in self._crashed:
            store._writer.close()
            store._reader.close()
        shutil.rmtree(self._directory)
