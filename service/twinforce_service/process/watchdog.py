"""Tell from signs of life whether an engine hangs; no threads and no I/O."""

from collections.abc import Callable

from twinforce_service.process.pulse import Beat

# A longer time between two looks, in s, is the fault of the watcher, such as a laptop that sleeps.
# No more than this counts.
_LONGEST_LOOK = 1.0


class Watchdog:
    """The age of the last sign of life of an engine, as far as the watcher was awake.

    Args:
        shortest: Time that the engine may always take until its next sign, in s; 0 means that it
            never counts as hung.
        clock: Returns the time, in s.
    """

    def __init__(self, shortest: float, clock: Callable[[], float]) -> None:
        self._shortest = shortest
        self._clock = clock
        self._beat: Beat | None = None
        self._looked_at = 0.0
        self.age = 0.0
        """Time since the last new sign was seen, in s."""

    def is_hung(self, beat: Beat) -> bool:
        """Note the last sign of the engine, and return True if the next one is overdue."""
        now = self._clock()
        if beat != self._beat:
            self._beat, self.age = beat, 0.0
        else:
            self.age += min(now - self._looked_at, _LONGEST_LOOK)
        self._looked_at = now
        return bool(self._shortest) and self.age > self._shortest + beat.seconds
