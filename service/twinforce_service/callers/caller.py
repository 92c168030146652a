"""The caller that a request comes from."""

from dataclasses import dataclass
from functools import lru_cache

from twinforce_service.callers.limits import CallerLimits
from twinforce_service.hosts import network_of


@dataclass(frozen=True, slots=True)
class Caller:
    """One of those who share the service: the owner of a key, else an address.

    Attributes:
        name: Name of the key, or the address or network that the connection comes from.
        share: Share of the device's time, relative to other callers who wait at the same time.
        may_be_urgent: True if its urgent requests go before those of other callers.
        limits: Limits on what it may ask for; None means those in the settings of the service.
    """

    name: str
    share: float = 1.0
    may_be_urgent: bool = False
    limits: CallerLimits | None = None


UNKNOWN = Caller("(service)")
"""The caller of requests from no connection, such as those of a warm-up; no key has this name."""


@lru_cache(maxsize=10_000)
def caller_at(host: str) -> Caller:
    """Return the caller without a key at an address; all of a /64 network of IPv6 is one caller."""
    return Caller(network_of(host))
