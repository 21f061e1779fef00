"""A forked child outlives its parent's store: what it inherited must not take the files of others with it (I1, I4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUARD = 60.0  # seconds after which a process of this test is taken to hang

#: The parent draws a nonce, forks a child that waits for a word, and closes its store.
PARENT = """
import gc, os, sys
from persistent_nonce import NonceError, NonceProvider, SQLiteStore

store = SQLiteStore(sys.argv[1])
nonces = NonceProvider(store, "key")
nonces.next()
reading, writing = os.pipe()
if os.fork():
    store.close()
    print("closed", flush=True)
    sys.stdin.readline()
    os.write(writing, b"go")
    os.wait()
else:
    os.read(reading, 2)
    if sys.argv[2] == "used":
        try:
            print(nonces.next(), flush=True)
        except NonceError as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    if sys.argv[2] == "dropped":
        del nonces, store
        gc.collect()
        os._exit(0)
    sys.exit()
"""

#: A child is done with its parent's store, opens one of its own, and draws again when the parent has closed its.
OWN = """
import gc, os, sys
from persistent_nonce import NonceProvider, SQLiteStore

store = SQLiteStore(sys.argv[1])
nonces = NonceProvider(store, "key")
nonces.next()
reading, writing = os.pipe()
back, forth = os.pipe()
if os.fork():
    os.read(back, 1)
    store.close()
    os.write(writing, b"x")
    os.wait()
else:
    if sys.argv[2] == "closed":
        store.close()
    del nonces, store
    gc.collect()
    own = NonceProvider(SQLiteStore(sys.argv[1]), "key")
    own.next()
    os.write(forth, b"x")
    os.read(reading, 1)
    print(own.next(), flush=True)
"""

#: Another process goes far ahead of the clock, and is killed.
OTHER = """
import os, signal, sys
from persistent_nonce import NonceProvider, SQLiteStore

nonces = NonceProvider(SQLiteStore(sys.argv[1]), "key")
nonces.raise_floor(nonces.last + 600_000)
print(nonces.next(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

LAST = """
import sys
from persistent_nonce import NonceProvider, SQLiteStore

print(NonceProvider(SQLiteStore(sys.argv[1]), "key").next(), flush=True)
"""


def run(program: str, path: Path) -> int:
    """Run a program that prints one number, and return it."""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    return int(done.stdout)


@pytest.mark.parametrize("how", ["used", "dropped", "exited"])
def test_a_child_of_a_closed_store(tmp_path: Path, how: str) -> None:
    """What a killed process wrote after the parent closed is still there, whatever the child does with its copy."""
    path = tmp_path / "nonces.db"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "closed\n"
        ahead = run(OTHER, path)
        out, _ = parent.communicate("go\n", timeout=GUARD)
    finally:
        parent.kill()
        parent.wait()
    assert out == ("ForkedCallError\n" if how == "used" else "")
    assert run(LAST, path) > ahead


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_child_with_a_store_of_its_own(tmp_path: Path, how: str) -> None:
    """What was inherited is closed before a new store is opened, also when the old one is gone: its locks are real."""
    path = tmp_path / "nonces.db"
    done = subprocess.run(
        [sys.executable, "-c", OWN, str(path), how],
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=True,
    )
    assert not done.stderr
    assert run(LAST, path) > int(done.stdout)


#: A store is open while its log, or its database, is made anew by another process, which is killed; then another one.
SECOND = """
import os, shutil, subprocess, sys
from persistent_nonce import NonceProvider, SQLiteStore, StoreError

path, other, anew, how = sys.argv[1:]
first = SQLiteStore(path)
os.unlink(path + "-wal")
os.unlink(path + "-shm")
if anew == "database":
    shutil.copy(path, path + ".copy")
    os.replace(path + ".copy", path)
subprocess.run([sys.executable, "-c", other, path])
if how == "closed":
    first.close()
try:
    print(NonceProvider(SQLiteStore(path), "key").next())
except StoreError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("how", ["open", "closed"])
@pytest.mark.parametrize("anew", ["log", "database"])
def test_a_second_store_beside_files_made_anew(
    tmp_path: Path, anew: str, how: str
) -> None:
    """SQLite would give a second store the -shm of the first: refused, unless its database is another (I1; A13)."""
    path = tmp_path / "nonces.db"
    run(LAST, path)
    done = subprocess.run(
        [sys.executable, "-c", SECOND, str(path), OTHER, anew, how],
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=True,
    )
    ahead, said = done.stdout.split()
    if anew == "log":
        assert said == "StoreReplacedError"
    else:
        assert int(said) > int(ahead)
    assert run(LAST, path) > int(ahead)


#: A process rests while its `-wal` and `-shm` are deleted and made anew by another one; then it is done with its store.
IDLE = """
import gc, sys
from persistent_nonce import SQLiteStore, StoreError

store = SQLiteStore(sys.argv[1])
print("idle", flush=True)
sys.stdin.readline()
if sys.argv[2] == "closes":
    store.close()
    try:
        SQLiteStore(sys.argv[1])
    except StoreError as error:
        print(type(error).__name__, flush=True)
if sys.argv[2] == "drops":
    del store
    gc.collect()
"""


@pytest.mark.parametrize("how", ["exits", "closes", "drops"])
def test_a_process_that_ends_beside_files_made_anew(tmp_path: Path, how: str) -> None:
    """What a killed process wrote into a new -wal outlives the end of one that had the old one open (I1, I4; A13)."""
    path = tmp_path / "nonces.db"
    run(LAST, path)
    idle = subprocess.Popen(
        [sys.executable, "-c", IDLE, str(path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert idle.stdout is not None
        assert idle.stdout.readline() == "idle\n"
        Path(f"{path}-wal").unlink()
        Path(f"{path}-shm").unlink()
        run(LAST, path)
        ahead = run(OTHER, path)
        out, _ = idle.communicate("go\n", timeout=GUARD)
    finally:
        idle.kill()
        idle.wait()
    assert out == ("StoreReplacedError\n" if how == "closes" else "")
    assert run(LAST, path) > ahead
