"""Count, log and trace the outcome of every call."""

import logging
from typing import Protocol, Self

from twinforce_proto import RequestCancelledError, ServiceError
from twinforce_service.engine.engine import Engine
from twinforce_service.logs import internal_error
from twinforce_service.metrics import UNKNOWN_MODEL, Metrics

logger = logging.getLogger(__name__)


class CallSpan(Protocol):
    """The span of a call that is recorded."""

    def end(self, model: str, outcome: str) -> None:
        """End it.

        Args:
            model: Name of the model, empty if the call is for none.
            outcome: "ok", or the class of the error.
        """


class Traces(Protocol):
    """Decides which calls are recorded, and records them."""

    def begin(self, transport: str, call: str) -> CallSpan | None:
        """Begin the span of a call, unless it is not recorded."""


class Outcomes:
    """Counts and logs the outcomes of calls, and records their spans.

    Args:
        metrics: Metrics to update.
        engine: Declares the models.
        traces: Records spans; None records none.
    """

    def __init__(self, metrics: Metrics, engine: Engine, traces: Traces | None = None) -> None:
        self._metrics = metrics
        self._engine = engine
        self._traces = traces

    def of(self, transport: str, call: str, model: str = "") -> "CountedOutcome":
        """Return a context manager that counts a call by its outcome, and traces it.

        An exception other than `ServiceError` is logged and raised again as a `ServiceError`.

        Args:
            transport: Name of the transport in metrics.
            call: Name of the call.
            model: Name of the model, if it is known already.
        """
        outcome = self.of_step(transport, call, model)
        outcome.begin()
        return outcome

    def of_step(self, transport: str, call: str, model: str) -> "CountedOutcome":
        """Return the same for a step of a stream, whose span has to be begun.

        The arguments are those of `of`.
        """
        return CountedOutcome(self._metrics, transport, self._engine, call, model, self._traces)


class CountedOutcome:
    """A class instead of a generator function, which would take several times as long.

    Attributes:
        model: Name of the model, which may be known only later.
    """

    __slots__ = ("_call", "_engine", "_metrics", "_span", "_traces", "_transport", "model")

    def __init__(
        self,
        metrics: Metrics,
        transport: str,
        engine: Engine,
        call: str,
        model: str,
        traces: Traces | None,
    ) -> None:
        self._metrics = metrics
        self._transport = transport
        self._engine = engine
        self._call = call
        self._traces = traces
        self._span: CallSpan | None = None
        self.model = model

    def begin(self) -> None:
        """Begin the span of the call, unless it is not recorded."""
        if self._traces is not None:
            self._span = self._traces.begin(self._transport, self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        label = self.model if self.model in self._engine.models else UNKNOWN_MODEL
        outcome = _outcome(error)
        self._metrics.count_request(self._transport, label, outcome)
        if self._span is not None:
            self._span.end(label, outcome)
        if error is not None and _is_unexpected(error):
            raise internal_error() from error


def _outcome(error: BaseException | None) -> str:
    """Return the outcome as a label, and log errors."""
    if error is None:
        return "ok"
    if isinstance(error, ServiceError):
        logger.debug("refused: %s: %s", type(error).__name__, error)
        return type(error).__name__
    if _is_unexpected(error):
        logger.error("a call failed", exc_info=error)
        return ServiceError.__name__
    return RequestCancelledError.__name__


def _is_unexpected(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, ServiceError)
