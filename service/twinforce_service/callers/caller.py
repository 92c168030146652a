"""The caller that a request comes from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """One of those who share the service: the owner of a key, else an address.

    Attributes:
        name: Name of the key, or the address that the connection comes from.
        share: Share of the device's time, relative to other callers who wait at the same time.
        may_be_urgent: True if its urgent requests go before those of other callers.
    """

    name: str
    share: float = 1.0
    may_be_urgent: bool = False


UNKNOWN = Caller("unknown")
"""The caller of requests that come from no connection, such as those of a warm-up."""
