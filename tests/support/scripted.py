"""A server that answers each request as scripted: with these bytes, or by hanging up after it has read it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, Literal

__all__ = ["LOST", "REFUSED", "Answer", "Scripted", "ok", "reply", "scripted"]

#: Bytes, or what is done in their place: nothing at all is said, also with nobody listening any more.
Answer = bytes | Literal["lost", "gone"]


def reply(status: int, body: object, *headers: str) -> bytes:
    """Return a reply in JSON."""
    text = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", *headers]
    head = "\r\n".join([*lines, f"Content-Length: {len(text)}", "", ""])
    return head.encode() + text


def ok(result: object) -> bytes:
    """Return a reply of the exchange without an error."""
    return reply(200, {"error": [], "result": result})


LOST: Final = "lost"
REFUSED: Final = reply(200, {"error": ["EAPI:Invalid nonce"]})


class Scripted:
    """Where it is, and the bodies of what arrived."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers
        self.bodies: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def _listen(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            while lines.readline():
                length = 0
                while (header := lines.readline().lower()) not in (b"\r\n", b""):
                    if header.startswith(b"content-length:"):
                        length = int(header.partition(b":")[2])
                self.bodies.append(lines.read(length))
                answer = self.answers.pop(0) if self.answers else ok({})
                if answer == "gone":
                    self.hang_up()
                if not isinstance(answer, bytes):
                    return
                connection.sendall(answer)

    def hang_up(self) -> None:
        """Listen no more."""
        with suppress(OSError):  # nobody was
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def scripted(*answers: Answer) -> Iterator[Scripted]:
    """Answer on a port of this machine."""
    server = Scripted(list(answers))
    try:
        yield server
    finally:
        server.hang_up()
