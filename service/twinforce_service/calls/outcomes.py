"""Count and log the outcome of every call."""

import logging
from typing import Self

from twinforce_proto import RequestCancelledError, ServiceError
from twinforce_service.engine.engine import Engine
from twinforce_service.logs import internal_error
from twinforce_service.metrics import UNKNOWN_MODEL, Metrics

logger = logging.getLogger(__name__)


def counted(metrics: Metrics, transport: str, engine: Engine, model: str = "") -> "CountedOutcome":
    """Return a context manager that counts a call by its outcome.

    An exception other than `ServiceError` is logged and raised again as a `ServiceError`.
    """
    return CountedOutcome(metrics, transport, engine, model)


class CountedOutcome:
    """A class instead of a generator function, which would take several times as long.

    Attributes:
        model: Name of the model, which may be known only later.
    """

    __slots__ = ("_engine", "_metrics", "_transport", "model")

    def __init__(self, metrics: Metrics, transport: str, engine: Engine, model: str) -> None:
        self._metrics = metrics
        self._transport = transport
        self._engine = engine
        self.model = model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        label = self.model if self.model in self._engine.models else UNKNOWN_MODEL
        self._metrics.count_request(self._transport, label, _outcome(error))
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
