"""Evaluate the systems of a request: submit them together and wait for all predictions."""

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

from twinforce_proto import (
    DeadlineExceededError,
    Prediction,
    PredictRequest,
    RequestCancelledError,
)
from twinforce_service.callers.allowances import Allowances
from twinforce_service.calls.conversion import BYTES_PER_SYSTEM, MAX_BYTES_INLINE, Converter
from twinforce_service.context import caller, connection, request_id, trace, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import Request, Walker


async def predict(
    engine: Engine,
    allowances: Allowances,
    request: PredictRequest,
    timeout: float | None,
    walker: Walker | None = None,
    converter: Converter | None = None,
) -> list[Prediction]:
    """Return the predictions for all systems, in order.

    The first error ends the call. Systems that are still in the queue when the call ends or is
    canceled are not evaluated.

    Args:
        engine: Evaluates the systems.
        allowances: Refuses what exceeds the limits of the caller.
        request: Systems and outputs to evaluate.
        timeout: Seconds to wait; None means no limit.
        walker: Walker whose step this is; None for a list of systems, whose errors say which
            system they are about.
        converter: Submits many systems in its thread; None submits them here.

    Raises:
        ServiceError: A system was refused or failed, or the timeout has passed.
    """
    with allowances.request(caller.get(), sum(map(len, request.systems))):
        pending = _pending(request, timeout, walker)
        n_bytes = BYTES_PER_SYSTEM * len(pending)
        try:
            if converter is None or n_bytes <= MAX_BYTES_INLINE:
                engine.submit(pending)
            else:
                await converter.convert_large(partial(engine.submit, pending))
            done = _Completion(pending).done
            if timeout is None:
                await done
            else:
                async with asyncio.timeout(timeout):
                    await done
        except TimeoutError as error:
            raise DeadlineExceededError(f"not evaluated within {timeout:.3g} s") from error
        finally:
            for each in pending:
                each.future.cancel()
        return _results(pending)


def _pending(
    request: PredictRequest, timeout: float | None, walker: Walker | None
) -> list[Request[Prediction]]:
    deadline = None if timeout is None else time.monotonic() + timeout
    label, level, who, where = request_id.get(), urgency.get(), caller.get(), connection.get()
    span = trace.get()
    return [
        Request(
            model=request.model,
            system=system,
            outputs=request.outputs,
            deadline=deadline,
            system_index=index if walker is None else None,
            request_id=label,
            walker=walker,
            urgency=level,
            caller=who,
            connection=where,
            trace=span,
            future=reply(),
        )
        for index, system in enumerate(request.systems)
    ]


class _Completion:
    """The end of several requests, which wakes the event loop only once.

    Args:
        pending: Requests that were submitted.

    Attributes:
        done: A future that is done once all requests are, or one has failed.
    """

    __slots__ = ("_loop", "_n_done", "_n_pending", "_thread", "done")

    def __init__(self, pending: Sequence[Request[Prediction]]) -> None:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._n_done, self._n_pending = itertools.count(1), len(pending)
        for each in pending:
            each.future.add_done_callback(self._note)

    def _note(self, future: Future[Prediction]) -> None:
        is_last = next(self._n_done) == self._n_pending
        if is_last or future.cancelled() or future.exception() is not None:
            if threading.get_ident() == self._thread:
                self._wake()
            else:
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _results(pending: Sequence[Request[Prediction]]) -> list[Prediction]:
    """Return the results, or raise the first error."""
    answered = [each.future for each in pending if _is_answered(each.future)]
    results = [future.result() for future in answered]
    if len(results) < len(pending):
        raise RequestCancelledError("the request was canceled")
    return results


def _is_answered(future: Future[Prediction]) -> bool:
    return future.done() and not future.cancelled()
