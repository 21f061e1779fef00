"""A local exchange for tests: this library's own, and those of its users."""

from persistent_nonce.testing.clock import ScaledClock
from persistent_nonce.testing.faults import (
    BadGateway,
    DelayedExecution,
    DrippingReply,
    EngineLimit,
    Fault,
    Lockout,
    LostReply,
    Throttled,
    Unavailable,
)
from persistent_nonce.testing.orders import Order
from persistent_nonce.testing.rules import RULES
from persistent_nonce.testing.simulator import Credentials, KrakenSimulator
from persistent_nonce.testing.visits import Arrival, Stats

__all__ = [
    "RULES",
    "Arrival",
    "BadGateway",
    "Credentials",
    "DelayedExecution",
    "DrippingReply",
    "EngineLimit",
    "Fault",
    "KrakenSimulator",
    "Lockout",
    "LostReply",
    "Order",
    "ScaledClock",
    "Stats",
    "Throttled",
    "Unavailable",
]
