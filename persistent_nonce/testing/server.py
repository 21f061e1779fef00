"""The exchange's door: HTTP on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Final
from urllib.parse import urlsplit

from persistent_nonce.testing.exchange import Exchange
from persistent_nonce.testing.faults import (
    BadGateway,
    DelayedExecution,
    DrippingReply,
    LostReply,
)
from persistent_nonce.testing.request import Request
from persistent_nonce.testing.visits import Visit

__all__ = ["Server"]

_PRIVATE: Final = "/0/private/"
_PUBLIC: Final = "/0/public/"
_JSON: Final = "application/json"
_PAGE: Final = b"<html><body><h1>This page is not a reply.</h1></body></html>"

#: Seconds that closing waits for a thread.
_CLOSE_TIMEOUT: Final = 5.0


class Server(ThreadingTCPServer):
    """Serves an exchange until closed; each connection has a thread.

    Args:
        exchange: whose door it is.
        latency: real seconds between a request's arrival and its execution.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, exchange: Exchange, *, latency: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exchange: Final = exchange
        self.latency: Final = latency
        self.closing: Final = threading.Event()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._acceptor = threading.Thread(
            target=self.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="kraken-simulator",
            daemon=True,
        )
        self._acceptor.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread that `close` can find."""
        for thread in [t for t in self._connections if not t.is_alive()]:
            del self._connections[thread]
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="kraken-simulator-connection",
            daemon=True,
        )
        self._connections[thread] = request
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a connection that broke; anything else is an error here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close(self) -> None:
        """Stop listening, cut every connection and wait for the threads to end."""
        self.closing.set()
        self.shutdown()
        self._acceptor.join(_CLOSE_TIMEOUT)
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._connections:
            thread.join(_CLOSE_TIMEOUT)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: object) -> None:
        """Keep quiet: standard error is the tests'."""

    def do_GET(self) -> None:
        """Answer a public call."""
        url = urlsplit(self.path)
        if not url.path.startswith(_PUBLIC) or not self.headers.get("User-Agent"):
            self._send(self._frame(HTTPStatus.FORBIDDEN, "text/html", _PAGE))
        elif not self.server.closing.wait(self.server.latency):
            method = url.path.removeprefix(_PUBLIC)
            reply = self.server.exchange.public(method, query=url.query)
            self._send(self._frame(HTTPStatus.OK, _JSON, json.dumps(reply).encode()))

    def do_POST(self) -> None:
        """Take a private call in, and answer it."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < len("1000000")):
            self.close_connection = True
            self._send(self._frame(HTTPStatus.LENGTH_REQUIRED, "text/html", _PAGE))
            return
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # the client died while sending
            return
        if not self.path.startswith(_PRIVATE):
            self._send(self._frame(HTTPStatus.NOT_FOUND, "text/html", _PAGE))
            return
        request = Request(
            path=self.path,
            body=body,
            agent=self.headers.get("User-Agent", ""),
            key=self.headers.get("API-Key", ""),
            signature=self.headers.get("API-Sign", ""),
            content_type=self.headers.get("Content-Type", ""),
        )
        visit = self.server.exchange.arrive(request, alive=self._is_connected)
        try:
            self._serve(visit)
        except OSError:
            visit.completed = False
            raise
        finally:
            self.server.exchange.leave(visit)

    def _serve(self, visit: Visit) -> None:
        server = self.server
        if server.closing.wait(server.latency):
            self.close_connection = True
            return
        reply = json.dumps(server.exchange.execute(visit)).encode()
        match visit.fault:
            case LostReply(after):
                server.closing.wait(after)
                self.close_connection = True
                server.exchange.leave(visit)
            case DrippingReply(interval):
                self._drip(visit, self._frame(HTTPStatus.OK, _JSON, reply), interval)
            case BadGateway(status):
                self._deliver(visit, self._frame(status, "text/html", _PAGE))
            case DelayedExecution():
                gone = HTTPStatus.GATEWAY_TIMEOUT
                self._deliver(visit, self._frame(gone, "text/html", _PAGE))
            case _:
                self._deliver(visit, self._frame(HTTPStatus.OK, _JSON, reply))

    def _deliver(self, visit: Visit, frame: bytes) -> None:
        # Before the bytes leave: with the last one in hand the client may send its next
        # request, or a test may ask for the figures.
        visit.completed = self._is_connected()
        self.server.exchange.leave(visit)
        self._send(frame)

    def _drip(self, visit: Visit, frame: bytes, interval: float) -> None:
        for index in range(len(frame) - 1):
            self._send(frame[index : index + 1])
            if self.server.closing.wait(interval):
                self.close_connection = True
                return
        self._deliver(visit, frame[-1:])

    def _send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def _frame(self, status: int, content_type: str, body: bytes) -> bytes:
        phrase, _ = self.responses.get(status, ("", ""))
        head = (
            f"HTTP/1.1 {status} {phrase}\r\n"
            f"Date: {self.date_time_string()}\r\n"
            f"Content-Type: {content_type}\r\n"
            f"Content-Length: {len(body)}\r\n"
        )
        if self.close_connection:
            head += "Connection: close\r\n"
        return head.encode() + b"\r\n" + body

    def _is_connected(self) -> bool:
        # A client that died or gave up has closed its end, which reads as no bytes.
        connection: socket.socket = self.connection
        try:
            peeked = connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return peeked != b""
