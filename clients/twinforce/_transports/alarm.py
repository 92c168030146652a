"""A timer for interrupting calls that take too long, nearly free when none does."""

import time
from collections.abc import Callable
from math import inf
from threading import TIMEOUT_MAX, Condition, Thread


class Alarm:
    """A timer that calls a function once, from its own thread; it can be reset cheaply.

    Postponing it does not wake the thread: the thread wakes at the earlier time and then sees
    that the alarm was postponed.

    Args:
        callback: Function to call when the alarm rings.
    """

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._changed = Condition()
        self._due = self._wakes_at = inf
        self._thread: Thread | None = None
        self._is_stopped = False
        self.has_rung = False

    def set(self, due: float) -> None:
        """Replace the time at which the alarm rings.

        Args:
            due: Time on the clock of `time.monotonic`, in s; infinity means never.
        """
        self._due = due
        if due < self._wakes_at:
            with self._changed:
                self._wakes_at = due
                self._changed.notify()
            if self._thread is None:
                self._thread = Thread(target=self._wait, name="alarm", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Disable the alarm and end its thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()

    def _wait(self) -> None:
        with self._changed:
            while not self._is_stopped and (now := time.monotonic()) < self._due:
                self._wakes_at = self._due
                self._changed.wait(min(self._wakes_at - now, TIMEOUT_MAX))
            if self._is_stopped:
                return
            self.has_rung = True
        self._callback()
