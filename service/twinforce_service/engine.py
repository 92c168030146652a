"""What transports submit to, whatever is behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twinforce_proto import ModelInfo
from twinforce_service.batching import Request
from twinforce_service.disagreement import Disagreement
from twinforce_service.journeys import Grant, Journey

# Bounds of what a refused caller is advised to wait, in s.
_MIN_RETRY_AFTER, _MAX_RETRY_AFTER = 0.1, 60.0


class Engine(Protocol):
    """What transports submit to.

    Everything that crosses it is plain data and futures, so that what is behind it can live in
    another process.
    """

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """What each served model declares, under its name; empty while they are loaded."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        ...

    @property
    def is_alive(self) -> bool:
        """Whether it may become ready, is, or was until it was told to stop."""
        ...

    def find(self, model: str) -> ModelInfo:
        """Return what a model declares, or raise `UnknownModelError` or `UnavailableError`."""
        ...

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none.

        The future of each accepted request completes, whatever happens. Cancelling it takes the
        request out of the queue.
        """
        ...

    def move(self, journey: Journey) -> Grant:
        """Accept a journey, or raise a `ServiceError`; return what lets it tell more.

        Its future completes, whatever happens, also where it turns out later that what was asked
        for makes no sense. Cancelling it ends the journey.
        """
        ...

    def stop(self, timeout: float | None = None) -> None:
        """Accept nothing more, finish what was accepted, and stop.

        What is not finished after `timeout` s ends with `UnavailableError`; journeys at once.
        """
        ...


class OwnedEngine(Engine, Protocol):
    """An engine as who owns it sees it."""

    @property
    def n_waiting(self) -> int:
        """How many requests wait for a device."""
        ...

    @property
    def n_waiting_atoms(self) -> int:
        """How many atoms they have."""
        ...

    def start(self) -> None:
        """Begin to load the models and to warm them up."""
        ...

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when requests are accepted.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated.
            UnavailableError: It was stopped first, or `timeout` s have passed.
        """
        ...


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that was evaluated, or some rows of a Jacobian, for the metrics.

    Attributes:
        model: Its name.
        n_systems: Systems that shared the batch.
        n_atoms: Their atoms.
        queue_s: How long each of them waited, in s.
        compute_s: The time on the device, in s.
        n_rows: Rows of a Jacobian, where it was that and no predictions.
        held_s: How long it had waited for walkers while the device was free, in s.
        disagreements: Of the forces of each system that both kinds were asked of.
    """

    model: str
    n_systems: int
    n_atoms: int
    queue_s: tuple[float, ...]
    compute_s: float
    n_rows: int = 0
    held_s: float = 0.0
    disagreements: tuple[Disagreement, ...] = ()


class Pace:
    """How fast a device has been lately, and so when a refused caller may come back."""

    def __init__(self) -> None:
        self._seconds_per_atom = 0.0

    def note(self, report: BatchReport) -> None:
        """Learn from a batch of predictions."""
        latest = report.compute_s / report.n_atoms
        self._seconds_per_atom = 0.8 * self._seconds_per_atom + 0.2 * latest

    def retry_after(self, n_atoms: int) -> float:
        """Return how long this many atoms will take, in s, within what is sensible advice."""
        return min(max(self._seconds_per_atom * n_atoms, _MIN_RETRY_AFTER), _MAX_RETRY_AFTER)
