"""Sessions: alive as long as their process, dead for good afterwards, and never judged in doubt."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import lock_descriptor

from persistent_nonce.errors import StoreUnavailableError
from persistent_nonce.stores import sessions
from persistent_nonce.stores.sessions import (
    FileSession,
    pid_of,
    process_state,
    sweep,
)
from tests.support.processes import Children, descriptors


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FileSession]:
    """Yield a session of this process."""
    session = FileSession(tmp_path, shared=False)
    yield session
    session.abandon()


def _file(directory: Path, session: FileSession) -> Path:
    return directory / f"{session.name}.lock"


def test_name_says_who_it_is(session: FileSession) -> None:
    """A session's name begins with the process's pid and start time, and its namespace; its file's inode ends it."""
    pid, start, namespace, last = session.name.split("-")
    assert pid_of(session.name) == int(pid) == os.getpid()
    assert int(start) > 0
    assert int(namespace) == os.stat("/proc/self/ns/pid").st_ino
    file = session._path
    assert file == file.parent / f"{session.name}.lock"
    assert int(last[4:], 16) == file.stat().st_ino


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o600), (True, 0o660)])
def test_mode_whatever_the_umask(tmp_path: Path, shared: bool, mode: int) -> None:
    """A session's file is its owner's, or its group's too where the store is shared, whatever the umask."""
    for umask in (0, 0o777):
        before = os.umask(umask)
        try:
            session = FileSession(tmp_path, shared=shared)
        finally:
            os.umask(before)
        found = _file(tmp_path, session).stat()
        session.abandon()
        assert stat.S_IMODE(found.st_mode) == mode


def test_living_session_is_not_dead(tmp_path: Path, session: FileSession) -> None:
    """A session whose lock is held is alive, and stays so however often one asks."""
    other = FileSession(tmp_path, shared=False)
    for _ in range(3):
        assert other.dead([session.name]) == frozenset()
        assert session.dead([other.name]) == frozenset()
    other.abandon()
    for _ in range(3):
        assert session.dead([other.name]) == {other.name}


def test_asking_leaves_no_lock_and_no_descriptor(
    tmp_path: Path, session: FileSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks after a dead session gives its lock back, also where a fork has copied the descriptor meanwhile."""
    other = FileSession(tmp_path, shared=False)
    other.abandon()
    before = descriptors()
    copies = []

    def copying(descriptor: int, *, blocking: bool) -> bool:
        copies.append(os.dup(descriptor))  # as a fork would
        return lock_descriptor(descriptor, blocking=blocking)

    with monkeypatch.context() as patch:
        patch.setattr(sessions, "lock_descriptor", copying)
        assert session.dead([other.name]) == {other.name}
    assert session.dead([other.name]) == {other.name}
    for copy in copies:
        os.close(copy)
    assert descriptors() == before


def test_session_without_a_file_lives_as_long_as_its_process(
    tmp_path: Path, session: FileSession
) -> None:
    """A cleaner that removes the file of a living process's session does not make it dead (A34)."""
    other = FileSession(tmp_path, shared=False)
    _file(tmp_path, other).unlink()
    assert not other.intact()
    assert session.dead([other.name]) == frozenset()
    other.abandon()
    assert session.dead([other.name]) == frozenset()  # the process lives


def test_session_without_a_file_and_process_is_dead(
    tmp_path: Path, session: FileSession
) -> None:
    """Without its file a session is dead once its pid is gone, or belongs to a process that began at another time."""
    pid, start, namespace, _ = session.name.split("-")
    with Children() as children:
        child = children.script("pass")
        child.end()
    gone = f"{child.pid}-1-{namespace}-00000000"
    reused = f"{pid}-{int(start) + 2}-{namespace}-00000000"
    same = f"{pid}-{start}-{namespace}-00000000"
    assert session.dead([gone, reused, same]) == {gone, reused}


def _copied(directory: Path, name: str) -> str:
    """Lay a file of a session that is not the one it was made with, as a backup put back does."""
    (directory / f"{name}.lock").touch()
    return name


def test_lock_of_a_copy_says_nothing(tmp_path: Path, session: FileSession) -> None:
    """Where a session's file was replaced, its free lock is no end: its process is asked after itself (I5; A34)."""
    other = FileSession(tmp_path, shared=False)
    _file(tmp_path, other).unlink()
    _copied(tmp_path, other.name)
    assert session.dead([other.name]) == frozenset()
    pid, start, namespace, last = other.name.split("-")
    reused = _copied(tmp_path, f"{pid}-{int(start) + 2}-{namespace}-{last}")
    foreign = _copied(tmp_path, f"{pid}-{start}-1-{last}")
    assert session.dead([other.name, reused, foreign]) == {reused}
    # A sweep keeps what lives; of whom nobody can tell, and no row names, is in no call.
    session.abandon()
    assert sweep(tmp_path, lambda name: False)
    assert [path.stem for path in tmp_path.iterdir()] == [other.name]
    other.abandon()


def test_process_that_is_hidden(
    tmp_path: Path, session: FileSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that /proc does not show, but the kernel knows, is not gone; nor with no descriptor left (I5; A34)."""
    *_, namespace, _ = session.name.split("-")
    monkeypatch.setattr(sessions, "_stat_fields", lambda pid: [])
    with Children() as children:
        child = children.script("import sys; sys.stdin.read()")
        name = f"{child.pid}-1-{namespace}-00000000"
        assert session.dead([name]) == frozenset()
        assert process_state(child.pid) == "unknown"

        def refuse(pid: int, number: int) -> None:
            raise PermissionError(1, "Operation not permitted")

        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", refuse)
            assert session.dead([name]) == frozenset()
        child.kill()
        assert session.dead([name]) == {name}


def test_ended_process_that_nobody_has_reaped(session: FileSession) -> None:
    """A process that has ended, and of which its parent was not told yet, is gone (I3)."""
    *_, namespace, _ = session.name.split("-")
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    start = sessions._start(sessions._stat_fields(pid))
    name = f"{pid}-{start}-{namespace}-00000000"
    try:
        assert session.dead([name]) == {name}
    finally:
        os.waitpid(pid, 0)


def test_foreign_proc(session: FileSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc is another namespace's, it says nothing of any process (I5)."""
    *_, namespace, _ = session.name.split("-")
    monkeypatch.setattr(os, "readlink", lambda path: "1")
    names = [f"1-0-{namespace}-00000000", "1-0-0-00000000"]
    assert session.dead(names) == frozenset()


@pytest.mark.parametrize(
    "name", ["1-2-3-4", "nonsense", "1-2-3", "../x", f"{10**20}-1-N-x"]
)
def test_nobody_is_judged_in_doubt(session: FileSession, name: str) -> None:
    """Seen from another pid namespace, or with a name that says nothing, a session without a file is not dead (I9)."""
    name = name.replace("N", str(os.stat("/proc/self/ns/pid").st_ino))
    assert session.dead([name]) == frozenset()


def test_session_that_cannot_be_tried_is_not_dead(
    tmp_path: Path, session: FileSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be opened, for want of rights or descriptors, leaves its session alive (I9)."""
    other = FileSession(tmp_path, shared=False)
    other.abandon()

    def refuse(path: object, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert session.dead([other.name]) == frozenset()


def test_replaced_file_is_noticed(tmp_path: Path, session: FileSession) -> None:
    """A session whose file was replaced is not intact: others would try another lock than it holds."""
    assert session.intact()
    path = _file(tmp_path, session)
    path.rename(tmp_path / "moved")
    path.touch()
    assert not session.intact()


def test_unlockable_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose lock somebody else has got is none, and leaves no descriptor open (I9)."""
    before = descriptors()
    monkeypatch.setattr(sessions, "lock_descriptor", lambda *_, **__: False)
    with pytest.raises(StoreUnavailableError, match="no nonce was issued"):
        FileSession(tmp_path, shared=False)
    assert descriptors() == before


def test_sweep_removes_what_nobody_names(tmp_path: Path, session: FileSession) -> None:
    """A sweep removes the files of ended sessions that no row names, and tells whether one lives."""
    named, unnamed = (FileSession(tmp_path, shared=False) for _ in range(2))
    named.abandon()
    unnamed.abandon()
    assert sweep(tmp_path, named.name.__eq__)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(
        [session.name, named.name]
    )
    session.abandon()
    assert not sweep(tmp_path, lambda name: False)
    assert list(tmp_path.iterdir()) == []
    assert not sweep(tmp_path / "missing", lambda name: False)


@pytest.mark.parametrize("named", [False, True])
def test_close_leaves_the_file_while_a_row_names_it(
    tmp_path: Path, named: bool
) -> None:
    """Closing a session removes its file, but not while a row names it: others have to find it dead."""
    session = FileSession(tmp_path, shared=False)
    session.close(named=named)
    assert _file(tmp_path, session).exists() is named


def test_state_of_a_process() -> None:
    """The kernel's word for a process is told in one of ours."""
    assert process_state(os.getpid()) == "running"
    with Children() as children:
        child = children.script("import sys; print('up', flush=True); sys.stdin.read()")
        child.wait_for("up")
        assert process_state(child.pid) in ("sleeping", "running")
        child.kill()
        assert process_state(child.pid) == "gone"
