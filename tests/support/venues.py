"""Other exchanges with strictly increasing nonces, over HTTP on this machine, and a client of each without a gate."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar, Final

import requests

from tests.support.serving import serving, url_of

__all__ = ["KEY", "Bitfinex", "Gemini", "Venue"]

KEY: Final = "account-key"
_SECRET: Final = b"the secret of this account"

#: Seconds for a reply on this machine: a guard.
_GUARD: Final = 60


class Venue:
    """An exchange that takes each nonce once, above the last, and one request at a time."""

    def __init__(self) -> None:
        self.floor = 0
        self.seen: list[int] = []
        self.refused: list[int] = []
        self.overlaps = 0
        self.url = ""
        self._mutex = threading.Lock()
        self._inside = 0

    def judge(self, nonce: int) -> bool:
        """Take note of a nonce and return whether it is taken."""
        with self._mutex:
            self.seen.append(nonce)
            good = nonce > self.floor and self.is_legal(nonce)
            if good:
                self.floor = nonce
            else:
                self.refused.append(nonce)
            return good

    def is_legal(self, nonce: int) -> bool:
        """Whether this exchange takes such a number at all."""
        raise NotImplementedError

    def answer(self, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Return status and reply; a wrong signature is a KeyError of the test."""
        raise NotImplementedError

    def called(self, path: str, nonce: int, **fields: object) -> Any:
        """Sign and send a request, as a client does, and return the reply."""
        raise NotImplementedError

    @contextmanager
    def open(self) -> Iterator[None]:
        """Answer on a port of this machine."""
        handler = type("_Handler", (_Handler,), {"venue": self})
        with serving(handler) as server:
            self.url = url_of(server)
            yield

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Be inside, alone or not."""
        with self._mutex:
            self._inside += 1
            self.overlaps += self._inside > 1
        try:
            yield
        finally:
            with self._mutex:
                self._inside -= 1

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        url = f"{self.url}/{path}"
        return requests.post(url, data=body, headers=headers, timeout=_GUARD).json()


class _Handler(BaseHTTPRequestHandler):
    venue: ClassVar[Venue]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.venue.visit():
            status, reply = self.venue.answer(self.path, self.headers, body)
            told = json.dumps(reply).encode()
            time.sleep(0.002)  # long enough to meet another one
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is theirs
        """Say nothing."""


class Bitfinex(Venue):
    """One that takes microseconds, up to the greatest whole number of a double."""

    def is_legal(self, nonce: int) -> bool:
        """Whether it fits."""
        return 0 < nonce < 2**53

    def answer(self, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Check the signature, then the nonce."""
        nonce = headers["bfx-nonce"]
        if headers["bfx-signature"] != _signed(f"/api{path}{nonce}".encode() + body):
            return 500, ["error", 10100, "apikey: digest invalid"]
        if not self.judge(int(nonce)):
            return 500, ["error", 10114, "nonce: small"]
        return 200, ["done", path]

    def called(self, path: str, nonce: int, **fields: object) -> Any:
        """Post JSON, signed in the headers."""
        body = json.dumps(fields).encode()
        headers = {
            "bfx-nonce": str(nonce),
            "bfx-apikey": KEY,
            "bfx-signature": _signed(f"/api/{path}{nonce}".encode() + body),
        }
        return self._post(path, body, headers)


class Gemini(Venue):
    """One that takes milliseconds, no further than 30 s from its clock."""

    def is_legal(self, nonce: int) -> bool:
        """Whether it is near to now."""
        return abs(nonce / 1000 - time.time()) <= 30

    def answer(self, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """Check the signature, then the nonce."""
        payload = headers["X-GEMINI-PAYLOAD"].encode()
        if headers["X-GEMINI-SIGNATURE"] != _signed(payload):
            return 400, {"result": "error", "reason": "InvalidSignature"}
        if not self.judge(int(json.loads(base64.b64decode(payload))["nonce"])):
            return 400, {"result": "error", "reason": "InvalidNonce"}
        return 200, {"result": "ok", "path": path}

    def called(self, path: str, nonce: int, **fields: object) -> Any:
        """Post nothing, with all in a signed header."""
        asked = {"request": f"/{path}", "nonce": nonce, **fields}
        payload = base64.b64encode(json.dumps(asked).encode())
        headers = {
            "X-GEMINI-APIKEY": KEY,
            "X-GEMINI-PAYLOAD": payload.decode(),
            "X-GEMINI-SIGNATURE": _signed(payload),
        }
        return self._post(path, b"", headers)


def _signed(text: bytes) -> str:
    return hmac.new(_SECRET, text, hashlib.sha384).hexdigest()
