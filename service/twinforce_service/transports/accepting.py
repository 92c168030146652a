"""Connections that cannot be accepted because too many files are open."""

import asyncio
import logging
import math
from typing import Any

logger = logging.getLogger(__name__)

# Connections that are accepted in one turn of the event loop. If no more files may be open, as many
# attempts fail, once a second.
ACCEPTED_AT_ONCE = 64
# Seconds between two lines in the logs about such failures, and the message of asyncio.
_REMINDER, _NO_FILES = 60.0, "socket.accept() out of system resource"


class AcceptFailures:
    """An exception handler of event loops that logs failures to accept connections now and then.

    The loop tries again by itself, every second.
    """

    def __init__(self) -> None:
        self._logged_at = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an exception, unless the last line about such a failure is recent."""
        if context.get("message") != _NO_FILES:
            loop.default_exception_handler(context)
        elif loop.time() - self._logged_at >= _REMINDER:
            self._logged_at = loop.time()
            text = "no more files may be open, so that connections wait: raise `ulimit -n` (%s)"
            logger.error(text, context.get("exception"))
