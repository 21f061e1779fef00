"""Arguments of the public signatures: returned as they are to be kept, or refused with a hint."""

from __future__ import annotations

import math
import unicodedata
from typing import Final

from persistent_nonce.errors import ConfigurationError

__all__ = [
    "check_label",
    "check_method",
    "check_reference",
    "check_store",
    "object_argument",
    "seconds_argument",
    "whole_argument",
]

_LONGEST_LABEL: Final = 64

_YEAR: Final = 366 * 86_400.0


def check_label(label: str) -> str:
    """Return `label`, or raise ConfigurationError unless it is 1 to 64 printable characters without a slash."""
    if not _is_printable(label) or "/" in label:
        raise ConfigurationError(
            f"unusable label {label!r:.80}",
            f"1 to {_LONGEST_LABEL} printable characters, no slash, no outer spaces",
        )
    return label


def check_reference(reference: str) -> str:
    """Return `reference`, or raise ConfigurationError unless it is 1 to 64 printable characters."""
    if not _is_printable(reference):
        raise ConfigurationError(
            f"unusable reference {reference!r:.80}",
            f"1 to {_LONGEST_LABEL} printable characters, no outer spaces",
        )
    return reference


def _is_printable(text: str) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= _LONGEST_LABEL
        and text == text.strip()
        and not any(unicodedata.category(c)[0] in "CZ" and c != " " for c in text)
    )


def check_method(method: str) -> str:
    """Return `method`, or raise ConfigurationError unless it is one or more labels with slashes between them."""
    short = isinstance(method, str) and len(method) <= _LONGEST_LABEL
    for part in method.split("/") if short else [method]:
        check_label(part)
    return method


def check_store(store: object) -> None:
    """Raise ConfigurationError unless `store` is one: a path is not, nor is what stands in a store's place.

    It is not shown: where arguments were swapped, it is the API key (I11).
    """
    if isinstance(store, type) or not hasattr(store, "update"):
        raise ConfigurationError(
            f"the store is an object of the kind {type(store).__name__}",
            "pass open_store(), or SQLiteStore(path)",
        )


def object_argument(name: str, value: object, kind: type, hint: str) -> None:
    """Raise ConfigurationError unless `value` is None or of the `kind`."""
    if value is not None and not isinstance(value, kind):
        raise ConfigurationError(f"{name} is {value!r:.40}", hint)


def seconds_argument(
    name: str, value: float, *, least: float = 0.0, most: float = _YEAR
) -> float:
    """Return `value` as seconds, or raise ConfigurationError unless it lies between `least` and `most`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not least <= value <= most
    ):
        raise ConfigurationError(
            f"{name} is {value!r:.40}", f"seconds, from {least:g} to {most:g}"
        )
    return float(value)


def whole_argument(name: str, value: int, *, least: int, most: int) -> int:
    """Return `value`, or raise ConfigurationError unless it is a whole number between `least` and `most`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not least <= value <= most
    ):
        raise ConfigurationError(
            f"{name} is {value!r:.40}", f"a whole number from {least} to {most}"
        )
    return value
