"""Read the messages of the parent in an engine process whenever the device is free.

The thread that owns the device waits for the socket itself, so that a request wakes one thread
only. Messages that arrive while a batch runs are read after it. If the batch takes long, a second
thread reads them, so that canceled requests leave the queue and large messages do not wait.
"""

import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from math import inf

from twinforce_service.engine.pulse import NoPulse, Pulse
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.messages import Message

logger = logging.getLogger(__name__)

# Seconds that make a long batch, and between checks of the second thread while batches are long:
# each check takes the interpreter from the thread that owns the device.
_TICK = 0.005
# Longest time between checks while all batches are short, in s.
_SLOW_TICK = 0.04
# Seconds without a batch after which the second thread sleeps until the next batch.
_IDLE_TIME = 1.0
# Seconds between two signs of life of a thread that waits.
_SIGN_INTERVAL = 0.25
_MAX_WAKEUPS = 4096


class Mailbox:
    """A `Wakeup` that also receives messages and passes them to a handler.

    Args:
        channel: Channel to the parent.
        pulse: Told that the thread is there while it waits.
    """

    def __init__(self, channel: Channel, pulse: Pulse | None = None) -> None:
        self._channel = channel
        self._pulse: Pulse = pulse or NoPulse()
        self._handle: Callable[[Message], None] = lambda _: None
        self._reading = threading.RLock()
        self._owner = 0
        self._is_notified = False
        self._busy_since: float | None = None
        self._free_since = 0.0
        self._is_active = threading.Event()
        self._has_unsent = threading.Event()
        self._wakeups, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._channel.on_unsent = self._note_unsent

    def start(self, handle: Callable[[Message], None]) -> None:
        """Pass all messages to this function, never two at a time."""
        self._handle = handle
        threading.Thread(target=self._read_while_busy, name="mailbox", daemon=True).start()

    def notify(self) -> None:
        """Wake the thread that owns the device, or make its next wait return at once."""
        if threading.get_ident() == self._owner:
            self._is_notified = True
        else:
            with contextlib.suppress(BlockingIOError):  # more wakeups than can be pending
                os.write(self._wake, b"\0")

    def wait(self, seconds: float | None = None) -> None:
        """Return after a message or a notification, or when the time is up."""
        self._owner = threading.get_ident()
        with self._reading:
            self._busy_since, self._free_since = None, time.monotonic()
            self._read()
        if seconds != 0 and not self._is_notified:
            self._sleep(seconds)
        self._is_notified = False
        self._busy_since = time.monotonic()
        if not self._is_active.is_set():
            self._is_active.set()

    def _sleep(self, seconds: float | None) -> None:
        # Not poll(), whose timeout is a whole number of milliseconds.
        channel = self._channel.fileno()
        to_send = [channel] if self._channel.has_unsent else []
        gives_up_at = time.monotonic() + (inf if seconds is None else seconds)
        while True:
            self._pulse.rest()
            left = gives_up_at - time.monotonic()
            span = min(max(left, 0.0), _SIGN_INTERVAL)
            readable, writable, _ = select.select([channel, self._wakeups], to_send, [], span)
            if readable or writable or left <= _SIGN_INTERVAL:
                break
        if self._wakeups in readable:
            os.read(self._wakeups, _MAX_WAKEUPS)
        if writable:
            self._channel.flush()
        with self._reading:
            self._read()

    def _read(self) -> None:
        """Handle the messages that have arrived; the process exits if that fails."""
        try:
            for frames in self._channel.receive():
                self._handle(messages.read(frames))
        except EOFError:
            threading.Event().wait()  # the thread that watches the parent ends the process
        except Exception:
            logger.critical("a message of the parent could not be handled", exc_info=True)
            os._exit(1)

    def _note_unsent(self) -> None:
        self._has_unsent.set()
        self._is_active.set()

    def _read_while_busy(self) -> None:
        """Receive and send while a batch takes long."""
        tick = _TICK
        while True:
            self._is_active.wait()
            self._has_unsent.wait(tick)
            self._has_unsent.clear()
            tick = _TICK if self._help() else min(2 * tick, _SLOW_TICK)

    def _help(self) -> bool:
        """Receive or send if the owner of the device is busy; return False if nothing is to do."""
        now, since = time.monotonic(), self._busy_since
        if has_unsent := self._channel.has_unsent:
            self._channel.flush()
        elif since is None and now - self._free_since > _IDLE_TIME:
            self._is_active.clear()
            if self._busy_since is not None or self._channel.has_unsent:
                self._is_active.set()
        if since is None or now - since <= _TICK:
            return has_unsent
        with self._reading:
            if self._busy_since is not None:
                self._read()
        return True
