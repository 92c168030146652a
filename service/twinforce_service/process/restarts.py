"""The schedule of restarts of a process that exits: soon, then less and less often, then never."""

from collections.abc import Callable

from twinforce_proto import UnavailableError

# Seconds between an exit and the next start: at first, doubled after each exit, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
# A process that was ready for this long, in s, resets the pause to the shortest one.
_STABLE_TIME = 60.0
# Exits in a row, without a stable process between them, after which the process is given up.
_MAX_EXITS = 12


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
        self._n_exits = 0
        self._cause = ""

    @property
    def pause(self) -> float:
        """Seconds to wait before the next start."""
        return min(_FIRST_PAUSE * 2.0 ** (self._n_exits - 1), _LONGEST_PAUSE)

    @property
    def is_exhausted(self) -> bool:
        """True if the process has exited too often to be started again."""
        return self._n_exits > _MAX_EXITS

    def note_ready(self) -> None:
        """Record that the process that was started last is ready."""
        self._ready_at = self._clock()
        self._start_time = self._ready_at - self._started_at

    def note_exit(self, cause: str) -> None:
        """Record that the process has exited; the next start follows after the pause."""
        now = self._clock()
        was_stable = self._ready_at is not None and now - self._ready_at >= _STABLE_TIME
        self._n_exits = 1 if was_stable else self._n_exits + 1
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
