"""What transports submit to, whatever is behind it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from twinforce_proto import ModelInfo
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.scheduling.request import Request


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

    def start_run(self, run: Run) -> Credit:
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
