"""One call of a caller, on any transport: submit its systems, wait for them, count the outcome."""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from twinforce_dynamics.course import Snapshot
from twinforce_proto import (
    OUTPUTS,
    DeadlineExceededError,
    Nonconservativity,
    Prediction,
    PredictRequest,
    RequestCancelledError,
    ServiceError,
)
from twinforce_service.batching import Request, Walker
from twinforce_service.engine import Engine
from twinforce_service.logs import request_id
from twinforce_service.metrics import UNKNOWN_MODEL, Metrics
from twinforce_service.reply import reply
from twinforce_service.urgency import urgency

logger = logging.getLogger(__name__)

# Converting more than this would make all other callers wait noticeably.
_MAX_BYTES_INLINE = 100_000

_Result = TypeVar("_Result")


class Call:
    """The systems of one call while they are evaluated.

    Args:
        engine: Accepts all of them, or raises a `ServiceError`.
        wanted: What was asked for.
        timeout: How long the caller waits, in s; None: until it goes away.
        walker: Whose next step it is; None: a list of systems, and errors say which they are about.
    """

    def __init__(
        self,
        engine: Engine,
        wanted: PredictRequest,
        timeout: float | None,
        walker: Walker | None = None,
    ) -> None:
        self._timeout = timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        self._requests: list[Request[Prediction]] = [
            Request(
                model=wanted.model,
                system=system,
                outputs=wanted.outputs,
                deadline=deadline,
                system_index=index if walker is None else None,
                request_id=request_id.get(),
                walker=walker,
                urgency=urgency.get(),
                future=reply(),
            )
            for index, system in enumerate(wanted.systems)
        ]
        engine.submit(self._requests)

    def cancel(self) -> None:
        """Take what is not being evaluated yet out of the queue."""
        for request in self._requests:
            request.future.cancel()

    async def predictions(self) -> list[Prediction]:
        """Wait for all predictions, in order; give up at the first error or when cancelled.

        Raises:
            ServiceError: Of one of the systems, or because nobody waits any more.
        """
        waiting = self._waiting()
        try:
            if self._timeout is None:
                await waiting
            else:
                async with asyncio.timeout(self._timeout):
                    await waiting
        except TimeoutError as error:
            raise DeadlineExceededError(f"not evaluated within {self._timeout:.3g} s") from error
        finally:
            self.cancel()
        futures = [request.future for request in self._requests]
        answered = [future for future in futures if future.done() and not future.cancelled()]
        for future in answered:
            if (failure := future.exception()) is not None:
                raise failure
        if len(answered) < len(futures):  # some wait no more, while others are being evaluated
            raise RequestCancelledError("the caller went away")
        return [future.result() for future in futures]

    def _waiting(self) -> "asyncio.Future[None]":
        """Return what is done when all futures are, or one has failed; wakes the loop once."""
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        waiting: asyncio.Future[None] = loop.create_future()
        n_done = itertools.count(1)

        def wake() -> None:
            if not waiting.done():
                waiting.set_result(None)

        def note(future: Future[Prediction]) -> None:
            is_last = next(n_done) == len(self._requests)
            if is_last or future.cancelled() or future.exception() is not None:
                if threading.get_ident() == thread:
                    wake()
                else:
                    loop.call_soon_threadsafe(wake)

        for request in self._requests:
            request.future.add_done_callback(note)
        return waiting


def reply_bytes(predictions: Sequence[Prediction]) -> int:
    """Return about how many bytes the arrays of predictions have."""
    arrays = (getattr(each, name) for each in predictions for name in OUTPUTS)
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def nonconservativity_bytes(found: Nonconservativity) -> int:
    """Return about how many bytes the arrays of the answer have."""
    arrays = found.pair_norms, found.antisymmetric_pair_norms
    return sum(array.nbytes for array in arrays if array is not None)


def snapshot_bytes(snapshot: Snapshot) -> int:
    """Return about how many bytes travel."""
    return snapshot.positions.nbytes + snapshot.velocities.nbytes + len(snapshot.checkpoint)


async def aside(n_bytes: int, work: Callable[[], _Result]) -> _Result:
    """Convert this much to or from what travels; beside the event loop where it takes long."""
    return work() if n_bytes <= _MAX_BYTES_INLINE else await asyncio.to_thread(work)


def counted(
    metrics: Metrics, transport: str, engine: Engine, model: str
) -> AbstractContextManager[None]:
    """Count a call by its outcome; what is no `ServiceError` is logged and becomes one.

    Raises:
        ServiceError: The one that the call ended with.
    """
    return _Counted(metrics, transport, engine, model)


class _Counted:
    """What `counted` returns: a class, as a generator would take several times as long."""

    __slots__ = ("_engine", "_metrics", "_model", "_transport")

    def __init__(self, metrics: Metrics, transport: str, engine: Engine, model: str) -> None:
        self._metrics = metrics
        self._transport = transport
        self._engine = engine
        self._model = model

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        known = self._model if self._model in self._engine.models else UNKNOWN_MODEL
        self._metrics.count_request(self._transport, known, _outcome(error))
        if error is not None and _is_unexpected(error):
            text = "internal error; the logs of the service say more"
            raise ServiceError(text) from error


def _outcome(error: BaseException | None) -> str:
    """Return what the metrics call what a call ended with, and log what should not be."""
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
