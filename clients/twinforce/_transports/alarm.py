"""What interrupts a call that takes too long, and costs next to nothing if none does."""

import time
from collections.abc import Callable
from math import inf
from threading import TIMEOUT_MAX, Condition, Thread


class Alarm:
    """Rings once, in a thread of its own, at a time that can be put off again and again.

    Putting it off wakes nobody: the thread finds out when it wakes at the time that was set before.

    Args:
        ring: What is called then.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._changed = Condition()
        self._due = self._wakes_at = inf
        self._thread: Thread | None = None
        self._is_stopped = False
        self.has_rung = False

    def set(self, due: float) -> None:
        """Ring then, and not at the time set before.

        Args:
            due: On the clock of `time.monotonic`, in s; infinite: not at all.
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
        """Ring no more."""
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
        self._ring()
