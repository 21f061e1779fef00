"""A program that draws bursts of nonces while a signal handler forks at random moments."""

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
#: How many each child draws, and how many the parent before the next fork: then it has a block again.
MORE = 3
BURST = 2_000

output, write = os.pipe()
children: list[int] = []
drawn: list[int] = []
inherited = -1  # how many were drawn before the fork, in a child


def fork(*_: object) -> None:
    """Copy this process wherever it is: its burst goes on on both sides."""
    global inherited  # noqa: PLW0603 - of the program
    pid = os.fork()
    if pid:
        children.append(pid)
    else:
        inherited = len(drawn)


def draw_until(count: int) -> None:
    """Draw until there is a child more than `count`, or this is one that has drawn enough."""
    take, note = provider.next, drawn.append
    while len(children) == count and (inherited < 0 or len(drawn) < inherited + MORE):
        # No signal handler runs from the return of the one to the end of the other.
        note(take())


chance = random.Random(7)
store = SQLiteStore(sys.argv[1])
provider = NonceProvider(store, "key", unit="ns")
signal.signal(signal.SIGALRM, fork)
while len(children) < FORKS:
    drawn += [provider.next() for _ in range(BURST)]
    count = len(children)  # before the alarm, which may come at once
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(20e-6, 1e-3))
    try:
        draw_until(count)
    except ForkedCallError:
        os._exit(0)  # a child: it was told
    if inherited >= 0:
        os.write(write, "".join(f"{n}\n" for n in drawn[inherited:]).encode())
        os._exit(0)
os.close(write)
report(children, output, drawn)
