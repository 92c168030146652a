"""The time that a server may take to stop."""

import asyncio
import logging
import os
import threading
import time

logger = logging.getLogger(__name__)

# Seconds to send the last replies after the engine has stopped.
REPLY_TIME = 5.0
# Seconds after the time to finish requests at which the process has ended: for the last replies,
# and for the end of engines and connections.
END_TIME = 10.0
# Seconds before the machine is taken away at which all requests have ended. They contain END_TIME.
_MARGIN_S = 20.0


class DrainTime:
    """The time to finish accepted requests, from the beginning of the stop.

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
        # The time at which it ends; None if it has not begun.
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds that it may take now."""
        if self._end is None:
            return self._timeout
        return max(self._end - time.monotonic(), 0.0)

    def begin(self) -> None:
        """Count the time from now on, unless it has begun."""
        if self._end is None:
            self._end = time.monotonic() + self._timeout

    def use_what_is_left(self) -> None:
        """Allow all the time that is left until the machine is taken away."""
        if self._until:
            self._end = time.monotonic() + self._until - _MARGIN_S - time.time()

    def shorten(self) -> None:
        """Allow the usual time from now on, as the machine may be taken away earlier."""
        self.use_what_is_left()
        self._end = time.monotonic() + min(self.seconds, self._timeout)
        self.shortened.set()

    def end_process_later(self) -> None:
        """End the process soon after this time, unless it has ended by itself.

        A file system that does not answer, for example, keeps a thread waiting, and a process waits
        for its threads.
        """
        timer = threading.Timer(self.seconds + END_TIME, _end_process)
        timer.daemon = True
        timer.start()


def _end_process() -> None:
    logger.error("the service has not stopped in time and ends now")
    os._exit(1)
