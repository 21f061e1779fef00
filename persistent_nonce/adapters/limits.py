"""A time limit on the whole reply of a `requests` call.

The client's own limit starts anew with each byte, so a reply that drips passes it. Here a timer shuts the socket
down under the thread that reads: the call ends, and the exchange sees that it has.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.poolmanager import PoolManager, pool_classes_by_scheme

__all__ = ["Limit", "never_connected", "was_sent_again", "watch"]

#: Seconds between two tries to cut a connection whose time is up.
_AGAIN: Final = 0.05

_of_thread = threading.local()


class Limit:
    """Give the calls of this thread `seconds` in all; `with` that, one call or several.

    Args:
        seconds: for all of them.
        error: of the client, to be raised when the time was up; None is a requests.exceptions.ReadTimeout.

    Raises on leaving:
        Exception: that error; what was raised because the time was up is its cause. A reply that came whole all the
            same is not lost.
    """

    def __init__(
        self,
        seconds: float,
        *,
        error: type[Exception] | None = None,
    ) -> None:
        self._seconds = seconds
        self._error = error or requests.exceptions.ReadTimeout
        self._mutex = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._over = False
        self._expired = False
        self.told = False  # whether a connection told of itself
        self._left = 0  # requests that may have left, those sent again among them
        self._answered = 0  # likewise, as the replies tell
        self._outer: Limit | None = None
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._outer = getattr(_of_thread, "limit", None)  # a hook may call meanwhile
        _of_thread.limit = self
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _of_thread.limit = self._outer
        with self._mutex:
            self._over = True
        self._timer.cancel()
        if self._expired and isinstance(error, Exception):
            raise self._error(
                f"no whole reply within {self._seconds:g} s; "
                "the call may have been executed"
            ) from error

    @property
    def requests(self) -> int:
        """How many requests may have left; 0 also if there were some of which nobody told."""
        return max(self._left, self._answered)

    def check(self) -> None:
        """Raise if the time was up: a reply that was cut among its headers looks like one without a body."""
        if self._expired:
            raise requests.exceptions.ConnectionError("the reply was cut")

    def uses(self, connection: HTTPConnection) -> None:
        """Note the connection that is to be cut, and that it begins a request."""
        with self._mutex:
            self._connection = connection
            self.told = True
            self._left += 1

    def never_left(self) -> None:
        """Note that the request just begun found no connection."""
        with self._mutex:
            self._left -= 1

    def answered(self, sendings: int) -> None:
        """Note a reply, and how often its request was sent."""
        with self._mutex:
            self._answered += sendings

    def _expire(self) -> None:
        self._cut()
        while not self._timer.finished.wait(_AGAIN):
            self._cut()  # it may have had no socket before

    def _cut(self) -> None:
        with self._mutex:
            if self._over:  # the connection may serve another call by now
                return
            self._expired = True
            sock = getattr(self._connection, "sock", None)
            if sock is not None:
                with suppress(OSError):  # it has just ended by itself
                    # Not the method of a TLS socket, which would take its state from under the reader.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    """A connection that tells the limit of its thread about each request."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        limit = getattr(_of_thread, "limit", None)
        if limit is None:
            super().request(*args, **kwargs)
            return
        limit.uses(self)
        try:
            super().request(*args, **kwargs)
        except (NewConnectionError, ConnectTimeoutError):
            limit.never_left()
            raise


class _WatchedTLS(_Watched, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _WatchedTLS


_POOLS: Final = {"http": _Pool, "https": _PoolTLS}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        if manager.pool_classes_by_scheme is pool_classes_by_scheme:  # no SOCKS proxy's
            manager.pool_classes_by_scheme = _POOLS
        return manager


def watch(session: requests.Session) -> bool:
    """Let limits count and cut the calls of `session`, wherever a proxy or a redirect leads them.

    An adapter of the program's own stays, only its connections tell of themselves; unless they are of a special kind,
    or a proxy's: of those the replies tell.

    Returns:
        Whether no adapter sends a POST again by itself, so that an error without a connection says that none was sent.
    """
    once = True
    hooks = getattr(session, "hooks", {})
    heard = hooks.get("response", [])
    heard = [heard] if callable(heard) else list(heard)
    if _heard not in heard:
        hooks["response"] = [_heard, *heard]
    adapters = getattr(session, "adapters", {})
    for prefix, adapter in list(adapters.items()):
        if type(adapter) is HTTPAdapter:
            # Not `mount`, which takes other prefixes out for a moment: another thread may be looking one up.
            session.adapters[prefix] = _twin(adapter)
        elif type(adapter) is not _Adapter:
            once = once and getattr(getattr(adapter, "max_retries", 1), "total", 1) == 0
            _follow(adapter)
    return once


def _follow(adapter: Any) -> None:
    pools = getattr(adapter, "poolmanager", None)
    if (
        isinstance(pools, PoolManager)
        and pools.pool_classes_by_scheme is pool_classes_by_scheme
    ):
        pools.clear()  # of those that are idle
        pools.pool_classes_by_scheme = _POOLS


def _twin(adapter: HTTPAdapter) -> _Adapter:
    """Return one with the settings of `adapter`; but a POST whose bytes may have left is never sent again.

    Sent again, a call that was executed would be refused for its nonce, and be taken for one that was not.
    """
    twin = _Adapter()
    twin.__setstate__(adapter.__getstate__())
    retries = twin.max_retries
    allowed = retries.allowed_methods or retries.DEFAULT_ALLOWED_METHODS  # empty: any
    # Never empty, which again would be any.
    allowed = (frozenset(allowed) - {"POST"}) or {"HEAD"}
    twin.max_retries = retries.new(allowed_methods=allowed)
    return twin


def never_connected(error: BaseException) -> bool:
    """Whether a client's error says, or was caused by one that says, that there was no connection."""
    cause: BaseException | None = error
    while not isinstance(cause, requests.exceptions.ConnectionError):
        if cause is None:
            return False
        cause = cause.__cause__
    reason = getattr(cause.args[0], "reason", None) if cause.args else None
    timed_out = isinstance(cause, requests.exceptions.ConnectTimeout)
    return timed_out or isinstance(reason, NewConnectionError)


def was_sent_again(response: Any) -> bool:
    """Whether a reply itself tells that its request was sent more than once; a session may have no hooks."""
    retries = getattr(getattr(response, "raw", None), "retries", None)
    return bool(getattr(response, "history", None) or getattr(retries, "history", None))


def _heard(response: Any, *_: object, **__: object) -> None:
    limit = getattr(_of_thread, "limit", None)
    if limit is not None:
        retries = getattr(getattr(response, "raw", None), "retries", None)
        limit.answered(1 + len(getattr(retries, "history", ())))
