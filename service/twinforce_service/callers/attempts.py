"""The failed attempts to give a key, counted by address, or by /64 network of IPv6."""

import time
from collections import OrderedDict
from collections.abc import Callable

from twinforce_service.hosts import network_of

# A caller may fail so often at once, and once more after each so many seconds.
_BURST, _INTERVAL_S = 10, 6.0
_MOST_ADDRESSES = 10_000


class FailedAttempts:
    """The number of failed attempts that each address, or /64 network of IPv6, has left.

    Only the addresses that failed last are kept, so that memory is bounded.

    Args:
        clock: Returns the time in s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Address -> time at which all of its attempts are left again.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds until an address may try again; 0 if it may now."""
        full_at = self._full_at.get(network_of(address), 0.0)
        return max(full_at - self._clock() - _INTERVAL_S * (_BURST - 1), 0.0)

    def note(self, address: str) -> None:
        """Note a failure of an address."""
        network = network_of(address)
        self._full_at[network] = max(self._full_at.get(network, 0.0), self._clock()) + _INTERVAL_S
        self._full_at.move_to_end(network)
        if len(self._full_at) > _MOST_ADDRESSES:
            self._full_at.popitem(last=False)
