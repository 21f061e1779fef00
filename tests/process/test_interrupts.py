"""Ctrl-C at any moment of a draw leaves nothing behind."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.checker import read_logs, violations
from tests.support.processes import Children
from tests.support.storm import storm
from tests.support.workers import draw_on, hold_lock

pytestmark = pytest.mark.storm


@pytest.mark.parametrize(
    ("contended", "times"), [(False, 5_000), (True, 1_000)], ids=["alone", "contended"]
)
def test_interrupted_draws(tmp_path: Path, contended: bool, times: int) -> None:
    """Thousands of interrupts at random moments of a draw leave no lock, transaction or file open (I1, I2)."""
    path = tmp_path / "nonces.db"
    with Children() as children:
        if contended:
            children.call(draw_on, path, tmp_path / "other.log").wait_for("ready")
        child = children.call(storm, path, tmp_path / "storm.log", times, contended)
        struck, wrong, leaked = child.result()
    assert struck == times
    assert wrong == []
    assert leaked == 0
    history = read_logs(tmp_path)
    assert len(history) > 1_000
    assert violations(history) == []


def test_interrupt_while_waiting_for_the_lock(tmp_path: Path) -> None:
    """Ctrl-C ends a wait for the lock of another process long before its timeout, and a later draw works."""
    path = tmp_path / "nonces.db"
    source = (
        "import sys\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1], timeout=3600)\n"
        "provider = NonceProvider(store, 'key')\n"
        "print('open', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    print('waiting', flush=True)\n"
        "    provider.next()\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "sys.stdin.readline()\n"
        "print('drew', provider.next() > 0, flush=True)\n"
    )
    with Children() as children:
        child = children.script(source, path)
        child.wait_for("open")
        holder = children.call(hold_lock, path)
        holder.wait_for("ready")
        child.tell()
        child.wait_for("waiting")
        child.kill(signal.SIGINT)
        child.wait_for("interrupted")
        holder.tell()
        holder.end()
        child.tell()
        child.wait_for("drew True")
        assert child.end() == 0


def test_use_from_a_signal_handler(tmp_path: Path) -> None:
    """A signal handler that draws inside a transaction of its own thread gets an error at once; the draw goes on."""
    source = (
        "import os, signal, sys\n"
        "from persistent_nonce import nonces\n"
        "from persistent_nonce.errors import StoreError\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.state import Changed\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "store = SQLiteStore(sys.argv[1], timeout=3600)\n"
        "provider = NonceProvider(store, 'key')\n"
        "said = []\n"
        "def handler(*_):\n"
        "    try:\n"
        "        provider.next()\n"
        "    except StoreError as error:\n"
        "        said.append(f'{type(error).__name__}: {error}')\n"
        "signal.signal(signal.SIGUSR1, handler)\n"
        "def change(state, now):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return Changed(nonces.issue(state, now))\n"
        "first = store.update(provider.key, change).nonce\n"
        "print(said[0], flush=True)\n"
        "print(provider.last == first, provider.next() > first, flush=True)\n"
    )
    with Children() as children:
        child = children.script(source, tmp_path / "nonces.db")
        said = child.line()
        assert said.startswith("StoreError: ")
        assert "in use by this very thread; no nonce was issued" in said
        assert child.line() == "True True"
        assert child.end() == 0


def test_interrupted_forks(tmp_path: Path) -> None:
    """Wherever in a fork an interrupt strikes, other threads go on, and the next children draw (I8; A15, A18)."""
    source = (
        "import os, random, signal, sys, threading\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores import forks\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "sys.unraisablehook = lambda found: None\n"  # Python passes over what a hook of a fork raises
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "provider = NonceProvider(SQLiteStore(sys.argv[1], timeout=5), 'key', unit='ns')\n"
        "chance, drawn = random.Random(3), [provider.next()]\n"
        "draw = lambda: drawn.append(provider.next())\n"
        "for number in range(1000):\n"
        "    try:\n"
        "        try:\n"
        "            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 2e-3))\n"
        "            if not os.fork():\n"
        "                os._exit(0)\n"
        "        finally:\n"
        "            signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "    except KeyboardInterrupt:\n"
        "        pass\n"
        "    try:\n"
        "        while True:\n"
        "            os.waitpid(-1, 0)\n"
        "    except ChildProcessError:\n"
        "        pass\n"
        "    if number % 20 == 0:\n"
        "        thread = threading.Thread(target=draw)\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "if not os.fork():\n"
        "    print('child', provider.next() > drawn[-1], flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(len(set(drawn)), forks.under_way, flush=True)\n"
    )
    with Children() as children:
        child = children.script(source, tmp_path / "nonces.db")
        assert child.line() == "child True"
        assert child.line() == "51 []"
        assert child.end() == 0


def test_interrupted_closes(tmp_path: Path) -> None:
    """Wherever in a close an interrupt strikes, the store opens again in the same process, and goes on (I2; A18)."""
    source = (
        "import random, signal, sys\n"
        "from persistent_nonce.provider import NonceProvider\n"
        "from persistent_nonce.stores.sqlite import SQLiteStore\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "chance, last, struck, longest = random.Random(5), 0, 0, 2e-3\n"
        "for number in range(300):\n"
        "    store = SQLiteStore(sys.argv[1], timeout=60)\n"
        "    nonce = NonceProvider(store, 'key', unit='ns').next()\n"
        "    assert nonce > last, (number, nonce, last)\n"
        "    last = nonce\n"
        "    try:\n"
        "        try:\n"
        "            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, longest))\n"
        "            store.close()\n"
        "        finally:\n"
        "            signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "            longest = max(1e-4, longest * 0.97)\n"
        "    except KeyboardInterrupt:\n"
        "        struck, longest = struck + 1, min(0.1, longest * 1.1)\n"
        "    store.close()\n"
        "print('struck', struck > 20)\n"
    )
    with Children() as children:
        child = children.script(source, tmp_path / "nonces.db")
        child.wait_for("struck True")
        assert child.end() == 0
