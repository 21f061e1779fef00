"""A process whose system calls a tracer kills or fails, from the moment at which its work begins."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from persistent_nonce import NonceProvider, SQLiteStore, StoreError
from tests.support.doomed_works import Victim
from tests.support.judging import Trials
from tests.support.killing import GUARD
from tests.support.workers import KEY

__all__ = ["assault", "why_not"]

_STRACE: Final = shutil.which("strace")

#: Lets whoever is of the same user trace this process, where the kernel asks for that (Yama); see prctl(2).
_PR_SET_PTRACER: Final = 0x59616D61


class Fault:
    """What a tracer does to a system call.

    Args:
        call: its name.
        what: "signal=KILL", or "error=" with the name of one.
        when: at which call of this name, from 1; with "+" at each from there on.
    """

    def __init__(self, call: str, what: str, when: str) -> None:
        self.call = call
        self.deadly = what.startswith("signal")
        self.name = f"{call}:{what}:when={when}"


class Tracer:
    """Victims that work under a tracer, with a judge after each.

    Args:
        trials: whose victims they are.
        directory: for the tracer's notes.
    """

    def __init__(self, trials: Trials, directory: Path) -> None:
        self._trials = trials
        self._notes = directory / "strace.txt"

    def strike(self, fault: Fault) -> bool:
        """Have a victim work under a fault, then judge; return whether the fault struck."""
        lines = self._victim(fault)
        self._trials.judge(fault.name, [lines])
        struck = "INJECTED" in self._notes.read_text() or "killed" in lines
        survived = fault.deadly and struck and "killed" not in lines
        if survived or lines[-1] not in ("killed", "end"):
            self._trials.wrong.append(f"{fault.name}: {lines[-1:]}")
        return struck

    def _victim(self, fault: Fault) -> list[str]:
        """Have the next victim work under a fault, and return what it told."""
        hear, tell_on = os.pipe()
        listen, say = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(hear)
            os.close(say)
            _suffer(self._trials, tell_on, listen)
        os.close(tell_on)
        os.close(listen)
        lines: list[str] = []
        tracer = None
        with os.fdopen(hear, encoding="utf-8") as pipe, os.fdopen(say, "wb", 0) as told:
            for line in pipe:
                lines.append(line.rstrip())
                if line == "ready\n":
                    tracer = self._attach(pid, fault)
                    told.write(b"\n")
                elif line == "over\n":
                    assert tracer is not None
                    _detach(tracer)
                    with suppress(BrokenPipeError):
                        told.write(b"\n")
        _, status = os.waitpid(pid, 0)
        if tracer is not None:
            tracer.communicate(timeout=GUARD)
        if os.WTERMSIG(status) == signal.SIGALRM:
            lines.append(f"error: it hung for {GUARD} s")
        elif "end" not in lines:
            lines.append("killed")
        return lines

    def _attach(self, pid: int, fault: Fault) -> subprocess.Popen[bytes]:
        assert _STRACE is not None
        command = [_STRACE, "-f", "-p", str(pid), "-o", str(self._notes)]
        command += ["-e", f"trace={fault.call}", "-e", f"inject={fault.name}"]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert b"attached" in said, said
        return tracer


def _detach(tracer: subprocess.Popen[bytes]) -> None:
    """End the tracer; what it traced goes on."""
    with suppress(ProcessLookupError):
        tracer.send_signal(signal.SIGINT)
    tracer.wait(GUARD)


def _suffer(trials: Trials, tell_on: int, listen: int) -> None:
    """Work under the tracer, in a child; then once more without it, and end."""

    def tell(line: str) -> None:
        os.write(tell_on, f"{line}\n".encode())

    @contextmanager
    def doom() -> Iterator[None]:
        tell("ready")
        os.read(listen, 1)
        try:
            yield
        except StoreError as error:
            tell(_complaint(error))
        finally:
            tell("over")
            os.read(listen, 1)

    victim = trials.victim(doom(), tell)
    try:
        signal.alarm(GUARD)
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        trials.work(victim)
        _again(victim)
        tell("end")
    except BaseException as error:  # noqa: BLE001 - a child must not go on as its parent
        tell(f"error {type(error).__name__}: {error}")
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


def _complaint(error: StoreError) -> str:
    """Return what to tell of an error: nothing is wrong with one that says what became of the nonce."""
    text = f"{type(error).__name__}: {error}"
    return f"failed {text}" if "no nonce was issued" in text else f"wrong {text}"


def _again(victim: Victim) -> None:
    """Take a nonce by the same store, as if nothing had been; one that was closed, or not opened, is opened anew."""
    store = victim.opened
    if store is None or store._state == "closed":
        store = SQLiteStore(victim.path, clock=victim.clock, timeout=GUARD)
    victim.tell(f"issued {NonceProvider(store, KEY).next()}")


def why_not() -> str:
    """Return why system calls cannot be traced here; empty if they can."""
    if _STRACE is None:
        return "strace is not installed"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        command = [_STRACE, "-p", str(child.pid), "-o", os.devnull]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        with tracer.stderr:
            said = tracer.stderr.readline().decode()
            _detach(tracer)
    finally:
        child.kill()
        child.communicate()
    return "" if "attached" in said else f"strace may not trace: {said.strip()}"


def assault(
    name: str, directory: str, faults: list[list[str]], step: int
) -> dict[str, Any]:
    """Do the work `name` again and again, each time with another system call killed or failed.

    Args:
        name: of one of WORKS.
        directory: where the databases are made.
        faults: each the name of a call, what is done to it, and "+" if it is done to all later ones too.
        step: how many of the calls to pass over between two that are struck, and one.
    """
    logging.disable()
    trials = Trials(name, Path(directory))
    tracer = Tracer(trials, Path(directory))
    struck: dict[str, int] = {}
    for call, what, on in faults:
        place = f"{call}:{what}{on}"
        struck[place] = 0
        number = 1
        while not trials.wrong and tracer.strike(Fault(call, what, f"{number}{on}")):
            struck[place] += 1
            number += step
            print(number, flush=True)  # noqa: T201 - whoever waits for the result sees that it goes on
    return {"struck": struck, "wrong": trials.wrong}
