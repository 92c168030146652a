"""The lifecycle of an engine: starting, ready, closed or failed."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from threading import Condition

from twinforce_proto import ModelInfo, ServiceError, UnavailableError
from twinforce_service.engine.report import Pace
from twinforce_service.scheduling.admission import Admission

# Seconds after which a client that is refused while the engine starts or stops may try again.
_RETRY_AFTER = 1.0


def shutting_down() -> UnavailableError:
    """Return the error for requests that arrive while the service stops."""
    return UnavailableError("the service is shutting down", retry_after=_RETRY_AFTER)


def not_finished() -> UnavailableError:
    """Return the error for accepted requests that the service had no time to finish."""
    text = "the service stopped before this was evaluated"
    return UnavailableError(text, retry_after=_RETRY_AFTER)


class Lifecycle:
    """The state that all engines share, and the models that they serve.

    The state may be read in any thread; a change holds `_changed` and notifies it.

    Args:
        max_pairs_per_system: Number of neighbor pairs that one system may have.
    """

    def __init__(self, max_pairs_per_system: int) -> None:
        self._max_pairs_per_system = max_pairs_per_system
        self._changed = Condition()
        self._models: Mapping[str, ModelInfo] = {}
        self._admission: Admission | None = None
        self._is_open = False
        self._is_closed = False
        self._failure: ServiceError | None = None
        self._pace = Pace()

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when the engine accepts requests.

        Args:
            timeout: Seconds to wait; None means no limit.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated.
            UnavailableError: The engine was stopped first, or the time is up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_open or self._is_closed, timeout)
            if not self.is_ready:
                raise self._refusal()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Declaration of each served model by name; empty until the models are loaded."""
        return self._models

    @property
    def has_started(self) -> bool:
        """True once the engine has been ready."""
        return self._admission is not None

    @property
    def available_models(self) -> Sequence[str]:
        """Names of the models that requests are accepted for."""
        return list(self._models) if self.is_ready else []

    @property
    def is_ready(self) -> bool:
        """True while the engine accepts requests."""
        return self._is_open and not self._is_closed

    @property
    def is_alive(self) -> bool:
        """False after a failure that the engine does not recover from."""
        return self._failure is None

    @property
    def failure(self) -> ServiceError | None:
        """The error that closed the engine; None if nothing failed."""
        return self._failure

    def find(self, model: str) -> ModelInfo:
        """Return the declaration of a model.

        Raises:
            UnknownModelError: No such model is served.
            UnavailableError: The models are not loaded.
        """
        return self._admitting().find(model)

    def _admitting(self) -> Admission:
        """Return the check that requests have to pass, or raise the refusal."""
        if self._admission is None:
            raise self._refusal()
        return self._admission

    def _open(self, models: Iterable[ModelInfo]) -> None:
        """Accept requests for these models from now on."""
        with self._changed:
            self._models = {info.name: info for info in models}
            self._admission = Admission(self._models, self._max_pairs_per_system)
            self._is_open = True
            self._changed.notify_all()

    def _close(self, failure: ServiceError | None = None) -> None:
        """Accept no more requests, because of a failure or because of `stop`."""
        with self._changed:
            self._failure = self._failure or failure
            self._is_closed = True
            self._changed.notify_all()

    def _refusal(self) -> ServiceError:
        """Return a new error, as raising one changes it, for requests that are not accepted."""
        if self._failure is not None:
            return copy(self._failure)
        if self._is_closed:
            return shutting_down()
        return self._not_open()

    def _not_open(self) -> ServiceError:
        """Return the refusal of an engine that is neither open nor closed."""
        text = "the service is starting: its models are loading"
        return UnavailableError(text, retry_after=_RETRY_AFTER)
