"""A program that draws nonces while a signal handler forks at random moments; run by test_forks.py."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from persistent_nonce.errors import ForkedCallError
from persistent_nonce.provider import NonceProvider
from persistent_nonce.stores.sqlite import SQLiteStore
from tests.support.forking import report

FORKS = 150

parent = os.getpid()
output, write = os.pipe()
children: list[int] = []


def fork(*_: object) -> None:
    """Copy this process wherever it is."""
    pid = os.fork()
    if pid:
        children.append(pid)


chance = random.Random(5)
store = SQLiteStore(sys.argv[1])
provider = NonceProvider(store, "key", unit="ns")
drawn = [provider.next()]
signal.signal(signal.SIGALRM, fork)
while len(children) < FORKS:
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 150e-6))
    try:
        value = provider.next()
    except ForkedCallError:
        os._exit(0)  # a child: it was told
    if os.getpid() != parent:
        os.write(write, f"{value}\n".encode())  # a child: it got a nonce
        os._exit(0)
    drawn.append(value)
signal.setitimer(signal.ITIMER_REAL, 0)
os.close(write)
report(children, output, drawn)
