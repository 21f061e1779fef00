"""A way to the exchange on which an order is executed, and its sender is led to send it once more."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Final, Literal
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.support.serving import serving, url_of

__all__ = ["NOWHERE", "Answer", "Eager", "between", "eager"]

#: What the first order is answered with, once the exchange has executed it: "502"; "lost", nothing at all; "307", the
#: way to the exchange itself; "307 to nowhere"; "502 and gone", after which nobody listens.
Answer = Literal["502", "lost", "307", "307 to nowhere", "502 and gone"]

#: Where nobody listens.
NOWHERE: Final = "http://127.0.0.1:9"


def eager() -> Retry:
    """Return retries after every failure, at once, of what changes something too."""
    return Retry(
        3, allowed_methods=["GET", "POST"], status_forcelist=[502], backoff_factor=0
    )


class Eager(HTTPAdapter):
    """An adapter of a program's own, which sends again what failed."""

    def __init__(self) -> None:
        super().__init__(max_retries=eager())


@contextmanager
def between(exchange: str, answer: Answer) -> Iterator[str]:
    """Pass calls on to the exchange, but for the reply to the first order; the value is where."""

    class Handler(BaseHTTPRequestHandler):
        struck = False

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        def do_GET(self) -> None:
            """Pass a public call on."""
            self._pass_on()

        def do_POST(self) -> None:
            """Pass a private call on; answer the first order in another way."""
            if Handler.struck or not self.path.endswith("/AddOrder"):
                self._pass_on()
                return
            Handler.struck = True
            self._ask()
            if answer == "502 and gone":
                # Nobody is to listen any more; the end of the test does it once more.
                self.server.shutdown()
                self.server.server_close()
            if answer.startswith("307"):
                where = NOWHERE if answer == "307 to nowhere" else exchange
                self.send_response(307)
                self.send_header("Location", where + self.path)
            elif answer.startswith("502"):
                self.send_response(502)
            else:
                return
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _pass_on(self) -> None:
            status, body = self._ask()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _ask(self) -> tuple[int, bytes]:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            way = http.client.HTTPConnection(urlsplit(exchange).netloc, timeout=60)
            try:
                way.request(self.command, self.path, body, dict(self.headers))
                reply = way.getresponse()
                return reply.status, reply.read()
            finally:
                way.close()

    with serving(Handler) as server:
        yield url_of(server)
