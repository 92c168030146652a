"""What the owner of a device waits at while there is nothing to do."""

from threading import Event
from typing import Protocol


class Wakeup(Protocol):
    """Rung from any thread, waited at in one."""

    def notify(self) -> None:
        """Say that there is something new."""

    def wait(self, seconds: float | None = None) -> None:
        """Return once it has been rung since the last wait, or something came in another way.

        Args:
            seconds: No longer than this; 0: at once, None: as long as it takes.
        """


class EventWakeup:
    """A `Wakeup` that only rings."""

    def __init__(self) -> None:
        self._rung = Event()

    def notify(self) -> None:
        """Say that there is something new."""
        self._rung.set()

    def wait(self, seconds: float | None = None) -> None:
        """Return once it has been rung since the last wait."""
        if seconds != 0:
            self._rung.wait(seconds)
        self._rung.clear()
