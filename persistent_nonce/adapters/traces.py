"""How often the bytes of a call left through `aiohttp`, counted just before they do.

That client limits the whole reply by itself, so that nothing has to be cut here.
"""

from __future__ import annotations

from typing import Final

import aiohttp

from persistent_nonce.adapters.sending import current

__all__ = ["watch"]


async def _begins(*_: object) -> None:
    sending = current()
    if sending is not None:
        sending.counts = True


async def _leaves(*_: object) -> None:
    sending = current()
    if sending is not None:
        sending.requests += 1  # once more after each redirect


_TRACE: Final = aiohttp.TraceConfig()
_TRACE.on_request_start.append(_begins)
_TRACE.on_request_headers_sent.append(_leaves)
_TRACE.freeze()


def watch(session: aiohttp.ClientSession) -> None:
    """Have the requests of `session` counted; more than once is fine."""
    if _TRACE not in session.trace_configs:
        session.trace_configs.append(_TRACE)
