"""Wake the thread that owns the device."""

from threading import Event
from typing import Protocol


class Wakeup(Protocol):
    """A signal that any thread may send and that one thread waits for."""

    def notify(self) -> None:
        """Wake the waiting thread, or make its next wait return at once."""

    def wait(self, seconds: float | None = None) -> None:
        """Return after a notification since the last wait, or another event.

        Args:
            seconds: Longest time to wait; 0 returns at once, None means no limit.
        """


class EventWakeup:
    """A `Wakeup` with no other source of events than `notify`."""

    def __init__(self) -> None:
        self._event = Event()

    def notify(self) -> None:
        """Wake the waiting thread, or make its next wait return at once."""
        self._event.set()

    def wait(self, seconds: float | None = None) -> None:
        """Return after a notification since the last wait, or when the time is up."""
        if seconds != 0:
            self._event.wait(seconds)
        self._event.clear()
