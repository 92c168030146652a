"""When an engine process reads what its parent says: whenever its device is free.

The thread that owns the device waits at the socket itself, so that a request wakes one thread and
no other. What comes while a batch runs is read after it, unless the batch takes long: then another
thread reads it, so that cancelled requests leave the queue and what is large does not wait.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable

from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.messages import Message

logger = logging.getLogger(__name__)

# s; a batch takes long if the other thread finds it still running.
_TICK = 0.005
# After so many s without a batch the other thread sleeps until there is one.
_DROWSY = 1.0
_MANY = 4096


class Mailbox:
    """A `Wakeup` that delivers messages to who waits at it.

    Args:
        link: Where messages come from.
    """

    def __init__(self, link: Channel) -> None:
        self._link = link
        self._deliver: Callable[[Message], None] = lambda _: None
        self._reading = threading.RLock()
        self._owner = 0
        self._is_notified = False
        self._busy_since: float | None = None
        self._free_since = 0.0
        self._is_awake = threading.Event()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._link.on_unsent = self._is_awake.set

    def deliver_to(self, deliver: Callable[[Message], None]) -> None:
        """Say what does what messages say."""
        self._deliver = deliver
        threading.Thread(target=self._help, name="post", daemon=True).start()

    def notify(self) -> None:
        """Say that there is something new."""
        if threading.get_ident() == self._owner:
            self._is_notified = True
        else:
            with contextlib.suppress(BlockingIOError):  # rung more often than anybody can hear
                os.write(self._wake, b"\0")

    def wait(self, seconds: float | None = None) -> None:
        """Return once something came, or it has been rung."""
        self._owner = threading.get_ident()
        with self._reading:
            self._busy_since, self._free_since = None, time.monotonic()
            self._read()
        if seconds != 0 and not self._is_notified:
            self._sleep(seconds)
        self._is_notified = False
        self._busy_since = time.monotonic()
        if not self._is_awake.is_set():
            self._is_awake.set()

    def _sleep(self, seconds: float | None) -> None:
        # Not poll(), which knows no time shorter than a millisecond.
        link = self._link.fileno()
        to_send = [link] if self._link.has_unsent else []
        come, room, _ = select.select([link, self._woken], to_send, [], seconds)
        if self._woken in come:
            os.read(self._woken, _MANY)
        if room:
            self._link.flush()
        with self._reading:
            self._read()

    def _read(self) -> None:
        """Deliver what has come; without this, the process is of no use."""
        try:
            for frames in self._link.receive():
                self._deliver(messages.read(frames))
        except EOFError:
            threading.Event().wait()  # for the end, with which the parent has already begun
        except Exception:
            logger.critical("a message could not be understood", exc_info=True)
            os._exit(1)

    def _help(self) -> None:
        """Read and send while a batch takes long."""
        while True:
            self._is_awake.wait()
            time.sleep(_TICK)
            now, since = time.monotonic(), self._busy_since
            if self._link.has_unsent:
                self._link.flush()
            elif since is None and now - self._free_since > _DROWSY:
                self._is_awake.clear()
                if self._busy_since is not None or self._link.has_unsent:
                    self._is_awake.set()
            if since is not None and now - since > _TICK:
                with self._reading:
                    if self._busy_since is not None:
                        self._read()
