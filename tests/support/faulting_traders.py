"""Clients of the simulated exchange in processes of their own, which take every fault and go on."""

from __future__ import annotations

import sys
from collections import Counter

import requests

from persistent_nonce import SQLiteStore
from persistent_nonce.adapters.krakenex import API
from persistent_nonce.testing import ScaledClock
from tests.support.simulated import LIMIT
from tests.support.workers import say

__all__ = ["trade"]


def trade(
    path: str, url: str, scale: int, timeout: float, calls: int
) -> dict[str, int]:
    """Make `calls` calls, whatever becomes of each; return how often they ended how.

    Key and secret come in by standard input.
    """
    key, secret = sys.stdin.readline().split()
    said = Counter[str]()
    with SQLiteStore(path, clock=ScaledClock(scale), timeout=60) as store:
        api = API(
            key,
            secret,
            store=store,
            tier="pro",
            timeout=timeout,
            gate_timeout=3_600.0 * scale,
        )
        api.uri = url
        say("ready")
        for number in range(calls):
            method, data = ("Balance", {}) if number % 3 else ("AddOrder", LIMIT)
            try:
                reply = api.query_private(method, data)
                said[str(reply["error"])] += 1
            except (requests.RequestException, ValueError) as error:
                said[type(error).__name__] += 1
    return said
