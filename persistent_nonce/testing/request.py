"""A request to the exchange as it arrived, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never
from urllib.parse import parse_qsl

from persistent_nonce.state import MAX_NONCE

__all__ = ["Request", "read_form", "read_json", "read_nonce", "sign", "texts"]


def sign(path: str, nonce: str, body: bytes, secret: str) -> str:
    """Return `API-Sign` for the raw bytes of a body, form or JSON.

    Raises:
        ValueError: `secret` is not base64.
    """
    message = path.encode() + hashlib.sha256(nonce.encode() + body).digest()
    mac = hmac.new(base64.b64decode(secret, validate=True), message, hashlib.sha512)
    return base64.b64encode(mac.digest()).decode()


@dataclass(frozen=True, slots=True)
class Request:
    """One private call on the wire; what a header did not say is empty.

    Attributes:
        path: with the leading `/0/private/`.
        body: the raw bytes, which are what is signed.
        agent: the header User-Agent.
        key: the header API-Key.
        signature: the header API-Sign.
        content_type: the header Content-Type.
    """

    path: str
    body: bytes
    agent: str = ""
    key: str = ""
    signature: str = ""
    content_type: str = ""

    @property
    def method(self) -> str:
        """What is asked, `Balance` in `/0/private/Balance`."""
        return self.path.removeprefix("/0/private/")

    def fields(self) -> dict[str, str]:
        """Return the body's fields as text, a JSON number as it was written.

        Raises:
            ValueError: the body is neither a form nor a JSON object, or it names a
                field twice, so that two readers could understand it differently.
        """
        text = self.body.decode()
        if self.content_type.partition(";")[0].strip().lower() == "application/json":
            parsed = read_json(text)
            if not isinstance(parsed, dict):
                raise ValueError("not a JSON object")
            return texts(parsed)
        return read_form(text)


def read_form(text: str) -> dict[str, str]:
    """Return the fields of a form, or of a query; of an empty one none.

    Raises:
        ValueError: it is no form, names a field twice, or escapes what is no text.
    """
    if not text:
        return {}
    return _unique(
        parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")
    )


def read_json(text: str) -> Any:
    """Return what JSON says; numbers stay text, since a nonce of 2**63 - 1 is no float.

    Raises:
        ValueError: it is no JSON, as the standard has it, or names a field twice.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=str,
            parse_float=str,
            parse_constant=_no_number,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a JSON object as text, what is nested as JSON again.

    Raises:
        ValueError: one is no text, which half of a surrogate pair is not.
    """
    try:
        found = {name: _text(value) for name, value in fields.items()}
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    "".join(itertools.chain(*found.items())).encode()
    return found


def read_nonce(text: str) -> int | None:
    """Return a nonce as a number, or None if it is none that the exchange can keep."""
    # The length first: int() refuses thousands of digits with an error of its own.
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NONCE))):
        return None
    return int(text) if int(text) <= MAX_NONCE else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is no JSON")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
