"""The interface of an engine."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from twinforce_proto import ModelInfo
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.scheduling.request import Request


class Engine(Protocol):
    """An engine as the calls of the service see it.

    Only plain data and futures cross this interface, so that an engine can live in another
    process.
    """

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Declaration of each served model by name; empty until the models are loaded."""
        ...

    @property
    def available_models(self) -> Sequence[str]:
        """Names of the models that requests are accepted for."""
        ...

    @property
    def is_ready(self) -> bool:
        """True while the engine accepts requests."""
        ...

    @property
    def is_alive(self) -> bool:
        """False after a failure that the engine does not recover from."""
        ...

    def find(self, model: str) -> ModelInfo:
        """Return the declaration of a model.

        Raises:
            UnknownModelError: No such model is served.
            UnavailableError: The models are not loaded.
        """
        ...

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none.

        The future of each accepted request completes in any case. Canceling it removes the
        request from the queue.
        """
        ...

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit.

        The future of an accepted run completes in any case, with an error if the run turns out
        to be invalid later. Canceling the future ends the run.
        """
        ...

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones, and stop.

        Runs end at once with `UnavailableError`.

        Args:
            timeout: Seconds after which unfinished requests end with `UnavailableError` too; None
                means no limit.
        """
        ...


class OwnedEngine(Engine, Protocol):
    """The interface for the owner of an engine, which starts it and watches its queue."""

    @property
    def has_started(self) -> bool:
        """True once the engine has been ready."""
        ...

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for a device."""
        ...

    @property
    def n_waiting_atoms(self) -> int:
        """Number of atoms of the requests that wait for a device."""
        ...

    def start(self) -> None:
        """Begin to load the models and to warm them up."""
        ...

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when the engine accepts requests.

        Args:
            timeout: Seconds to wait; None means no limit.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated.
            UnavailableError: The engine was stopped first, or the time is up.
        """
        ...
