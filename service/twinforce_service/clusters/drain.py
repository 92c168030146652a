"""The time that a server may take to finish its requests when it stops."""

import asyncio
import time

# Seconds before the machine is taken away at which all requests have ended: the rest is for their
# replies, and for the end of the processes.
_MARGIN_S = 20.0


class DrainTime:
    """The time to finish accepted requests.

    Args:
        timeout: Seconds that it takes at most.
        until: Time at which the machine is taken away, in s since 1970; 0 if that is not known.

    Attributes:
        shortened: Set once it was shortened.
    """

    def __init__(self, timeout: float, until: float = 0.0) -> None:
        self.shortened = asyncio.Event()
        self._timeout = timeout
        self._until = until
        # The time, in s since 1970, at which it ends; None if it has not begun.
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds that it may take now."""
        if self._end is None:
            return self._timeout
        return max(self._end - time.time(), 0.0)

    def use_what_is_left(self) -> None:
        """Allow all the time that is left until the machine is taken away."""
        if self._until:
            self._end = self._until - _MARGIN_S

    def shorten(self) -> None:
        """Allow the usual time from now on, as the machine may be taken away earlier."""
        self.use_what_is_left()
        self._end = time.time() + min(self.seconds, self._timeout)
        self.shortened.set()
