"""One call of a caller, on any transport: submit its systems, wait for them, count the outcome."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
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
        try:
            async with asyncio.timeout(self._timeout):
                await self._wait()
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

    async def _wait(self) -> None:
        """Return when all futures are done, or one has failed; wakes the event loop once."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        n_done = itertools.count(1)

        def note(future: Future[Prediction]) -> None:
            is_last = next(n_done) == len(self._requests)
            if is_last or future.cancelled() or future.exception() is not None:
                loop.call_soon_threadsafe(woken.set)

        for request in self._requests:
            request.future.add_done_callback(note)
        await woken.wait()


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


@contextmanager
def counted(metrics: Metrics, transport: str, engine: Engine, model: str) -> Iterator[None]:
    """Count a call by its outcome; what is no `ServiceError` is logged and becomes one.

    Raises:
        ServiceError: The one that the call ended with.
    """
    outcome = "ok"
    try:
        yield
    except ServiceError as error:
        outcome = type(error).__name__
        logger.debug("refused: %s: %s", outcome, error)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        outcome = RequestCancelledError.__name__
        raise
    except Exception as error:
        outcome = ServiceError.__name__
        logger.exception("a call failed")
        raise ServiceError("internal error; the logs of the service say more") from error
    finally:
        known = model if model in engine.models else UNKNOWN_MODEL
        metrics.count_request(transport, known, outcome)
