"""The schedule of restarts of a process that exits: soon, then less and less often, then never."""

from collections.abc import Callable
from enum import Enum
from math import inf

from twinforce_proto import UnavailableError

# Seconds between an exit and the next start: at first, doubled after each exit, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
# A process that was ready for this long, in s, resets the pause to the shortest one.
_STABLE_TIME = 60.0
# Exits in a row, without a stable process between them, after which the process is given up. One
# that hung counts more, as it has taken longer.
_MAX_EXITS, _WEIGHT_OF_HANG = 12, 4
# A start may take this many times as long as the first one, and at least so many s.
_START_FACTOR, _SHORTEST_START = 10.0, 300.0


class Culprit(Enum):
    """The reason why a process exits or does not start."""

    ENGINE = "engine"
    REQUEST = "request"
    MACHINE = "machine"


class Restarts:
    """The history of a process, and when to start it next.

    Args:
        clock: Returns the time, in s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = clock()
        self._ready_at: float | None = None
        self._start_time = 1.0
        self._first_start_time: float | None = None
        self._n_exits = self._weight = 0
        self._cause = ""

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start."""
        return min(_FIRST_PAUSE * 2.0 ** (self._n_exits - 1), _LONGEST_PAUSE)

    @property
    def is_exhausted(self) -> bool:
        """True if the process has exited too often to be started again."""
        return self._weight > _MAX_EXITS

    def note_ready(self) -> None:
        """Record that the process that was started last is ready."""
        self._ready_at = self._clock()
        self._start_time = self._ready_at - self._started_at
        if self._first_start_time is None:
            self._first_start_time = self._start_time

    def note_start(self) -> None:
        """Record that the process is being started."""
        self._started_at = self._clock()

    @property
    def longest_start(self) -> float:
        """Seconds that the present start may take; no limit for the first one."""
        if self._first_start_time is None:
            return inf
        return max(_START_FACTOR * self._first_start_time, _SHORTEST_START)

    def note_exit(
        self, cause: str, hung_for: float = 0.0, culprit: Culprit = Culprit.ENGINE
    ) -> None:
        """Record that the process has exited; the next start follows after the pause.

        Args:
            cause: Description for clients.
            hung_for: Seconds for which it did not respond before it was killed.
            culprit: The reason of the exit. Only exits of the engine's own count.
        """
        now = self._clock()
        worked_until = now - hung_for
        was_stable = self._ready_at is not None and worked_until - self._ready_at >= _STABLE_TIME
        if was_stable or culprit is Culprit.REQUEST:
            self._n_exits = self._weight = 0
        self._n_exits += 1
        if culprit is Culprit.ENGINE:
            self._weight += _WEIGHT_OF_HANG if hung_for else 1
        self._ready_at = None
        self._cause = cause
        self._started_at = now + self.pause

    def refusal(self, device: str) -> UnavailableError:
        """Return the error for requests that arrive between the exit and the next start."""
        ready_at = self._started_at + self._start_time
        return UnavailableError(
            f"the engine on {device} failed ({self._cause}) and is being restarted",
            retry_after=max(_FIRST_PAUSE, ready_at - self._clock()),
        )
