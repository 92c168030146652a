"""When to start a process again that has died: soon, then less and less often, then never."""

from collections.abc import Callable

from twinforce_proto import UnavailableError

# Between a death and the next start, in s: the first time, doubled each time, at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
# A process that was ready for this long did well, in s: it begins again with the shortest pause.
_STABLE_TIME = 60.0
# In a row, without a good life between them.
_MAX_EXITS = 12


class Restarts:
    """What the past says of the next start.

    Args:
        clock: In s.
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
        """How long to wait before the next start, in s."""
        return min(_FIRST_PAUSE * 2.0 ** (self._n_exits - 1), _LONGEST_PAUSE)

    @property
    def is_exhausted(self) -> bool:
        """Whether it has died too often to go on."""
        return self._n_exits > _MAX_EXITS

    def note_ready(self) -> None:
        """Learn that the process which was started last is ready."""
        self._ready_at = self._clock()
        self._start_time = self._ready_at - self._started_at

    def note_exit(self, cause: str) -> None:
        """Learn that it has died; the next one starts after the pause."""
        now = self._clock()
        was_stable = self._ready_at is not None and now - self._ready_at >= _STABLE_TIME
        self._n_exits = 1 if was_stable else self._n_exits + 1
        self._ready_at = None
        self._cause = cause
        self._started_at = now + self.pause

    def refusal(self, device: str) -> UnavailableError:
        """Return the error of what was asked of the dead process, or is asked of the next one."""
        ready_at = self._started_at + self._start_time
        return UnavailableError(
            f"the engine on {device} died ({self._cause}) and is being started again",
            retry_after=max(_FIRST_PAUSE, ready_at - self._clock()),
        )
