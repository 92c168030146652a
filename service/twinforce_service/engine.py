"""What transports submit to, whatever is behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twinforce_proto import ModelInfo
from twinforce_service.batching import Request
from twinforce_service.disagreement import Disagreement


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

    def stop(self, timeout: float | None = None) -> None:
        """Accept nothing more, finish what was accepted, and stop.

        What is not finished after `timeout` s ends with `UnavailableError`.
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
        disagreements: Of the forces of each system that both kinds were asked of.
    """

    model: str
    n_systems: int
    n_atoms: int
    queue_s: tuple[float, ...]
    compute_s: float
    n_rows: int = 0
    disagreements: tuple[Disagreement, ...] = ()
