"""A krakenex client without a network: what it sends is noted, what it gets is what a test says."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Final

import requests

__all__ = ["KEY", "REFUSED", "SECRET", "Post", "Wire", "ok", "reply"]

KEY: Final = "the public part of a key"
SECRET: Final = base64.b64encode(b"the secret of that key").decode()

#: The reply to a nonce that is not greater than the last one.
REFUSED: Final = {"error": ["EAPI:Invalid nonce"]}


def reply(body: object, status: int = 200) -> requests.Response:
    """Return a reply of the exchange; text goes as it is, anything else as JSON."""
    made = requests.Response()
    made.status_code = status
    text = body if isinstance(body, str) else json.dumps(body)
    made._content = text.encode()
    made.url = "https://exchange.invalid/"
    return made


def ok(result: object = None) -> dict[str, object]:
    """Return what krakenex makes of a good reply."""
    return {"error": [], "result": result if result is not None else {"ZUSD": "1.0"}}


@dataclass(frozen=True)
class Post:
    """A private call as it was sent."""

    method: str
    nonce: int
    data: dict[str, Any]
    headers: dict[str, str]
    timeout: Any


@dataclass
class Wire:
    """Stands for the `requests.Session` of a client.

    Attributes:
        answers: what each call gets in turn: a body, a response, an error to raise, or a function of the call that
            returns one of these; without any, a good reply.
        posts: the private calls sent.
        gets: the public ones.
    """

    answers: list[Any] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)

    @property
    def nonces(self) -> list[int]:
        """The nonces sent, in order."""
        return [post.nonce for post in self.posts]

    def post(self, url: str, data: Any, headers: Any, timeout: Any) -> Any:
        """Take a private call."""
        method = url.partition("/0/private/")[2]
        sent = Post(method, data["nonce"], dict(data), dict(headers), timeout)
        self.posts.append(sent)
        answer = self.answers.pop(0) if self.answers else ok()
        if callable(answer):
            answer = answer(sent)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, requests.Response) else reply(answer)

    def get(self, url: str, **_: Any) -> Any:
        """Take a public call, with what it says wherever a version of krakenex puts that."""
        self.gets.append(url)
        return reply(ok({"unixtime": 1}))
