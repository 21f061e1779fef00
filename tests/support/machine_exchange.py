"""A model of the exchange for one key: which nonce it accepted, what is on its way to it, and its call counter."""

from __future__ import annotations

from dataclasses import dataclass, field

from persistent_nonce.clock import SECOND
from persistent_nonce.state import Rate

__all__ = ["Exchange", "Request"]


@dataclass(eq=False)
class Request:
    """A call's request, from when it leaves.

    Attributes:
        until: `mono`; past it the caller may have been overtaken, and nothing is promised to it.
        boot: in which the caller began it.
    """

    whose: str
    nonce: int
    cost: int
    until: int
    boot: str | None


@dataclass
class Exchange:
    """Accepts what is greater than all it accepted before, as Kraken does.

    Attributes:
        greatest: the greatest nonce accepted.
        foreign: how far another program, which does not use this library, has raised that.
        capricious: so many requests are refused though their nonces are good.
        wire: what has left and not arrived.
    """

    rate: Rate | None
    greatest: int = 0
    foreign: int = 0
    capricious: int = 0
    wire: list[Request] = field(default_factory=list)
    level: int = 0  # of the call counter, as ns of draining
    charged: int = 0  # mono, when that was so

    def leave(self, request: Request) -> None:
        """Let a request leave its program; from here on it may arrive whatever becomes of that."""
        self.wire.append(request)

    def arrive(self, request: Request, mono: int, boot: str | None) -> bool:
        """Return whether a request is accepted that arrives while its program waits for the reply.

        A call that was neither killed nor overtaken is refused only for what others did (I1, I2, I4, I5).
        """
        self.wire.remove(request)
        promised = mono <= request.until and boot == request.boot
        if promised and request.cost and self.rate is not None:
            self._charge(request, mono, self.rate)
        if self.capricious:
            self.capricious -= 1
            return False
        if request.nonce > self.greatest:
            self.greatest = request.nonce
            return True
        assert not promised or request.nonce <= self.foreign, (
            f"{request.whose}: nonce {request.nonce} arrived after {self.greatest} (I2, I5)"
        )
        return False

    def deliver(self, request: Request) -> None:
        """Let a request arrive for whose reply nobody waits any more."""
        self.wire.remove(request)
        self.greatest = max(self.greatest, request.nonce)

    def raise_floor(self, nonce: int) -> None:
        """Let a foreign program have a call accepted."""
        self.greatest = self.foreign = max(self.greatest, nonce)

    def _charge(self, request: Request, mono: int, rate: Rate) -> None:
        every = round(rate.every * SECOND)
        self.level = max(0, self.level - (mono - self.charged)) + request.cost * every
        self.charged = mono
        assert self.level <= rate.burst * every, (
            f"{request.whose}: the counter is at {self.level / every:.2f} of {rate.burst} (I6)"
        )

    def reboot(self, mono: int) -> None:
        """Go on where the programs' machine starts anew, in no time at all, with another `mono`."""
        self.charged = mono
