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
from twinforce_service.calls.conversion import BYTES_PER_SYSTEM, Converter
from twinforce_service.context import caller, connection, request_id, urgency
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
        return await _predict(engine, _pending(request, timeout, walker), timeout, converter)


async def _predict(
    engine: Engine,
    pending: Sequence[Request[Prediction]],
    timeout: float | None,
    converter: Converter | None,
) -> list[Prediction]:
    try:
        if converter is None:
            engine.submit(pending)
        else:
            await converter.convert(
                BYTES_PER_SYSTEM * len(pending), partial(engine.submit, pending)
            )
        done = _done(pending)
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
    return _results([each.future for each in pending])


def _pending(
    request: PredictRequest, timeout: float | None, walker: Walker | None
) -> list[Request[Prediction]]:
    deadline = None if timeout is None else time.monotonic() + timeout
    return [
        Request(
            model=request.model,
            system=system,
            outputs=request.outputs,
            deadline=deadline,
            system_index=index if walker is None else None,
            request_id=request_id.get(),
            walker=walker,
            urgency=urgency.get(),
            caller=caller.get(),
            connection=connection.get(),
            future=reply(),
        )
        for index, system in enumerate(request.systems)
    ]


def _done(pending: Sequence[Request[Prediction]]) -> "asyncio.Future[None]":
    """Return a future that is done once all pending requests are, or one has failed.

    It wakes the event loop only once.
    """
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    done: asyncio.Future[None] = loop.create_future()
    n_done = itertools.count(1)

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    def note(future: Future[Prediction]) -> None:
        is_last = next(n_done) == len(pending)
        if is_last or future.cancelled() or future.exception() is not None:
            if threading.get_ident() == thread:
                wake()
            else:
                loop.call_soon_threadsafe(wake)

    for each in pending:
        each.future.add_done_callback(note)
    return done


def _results(futures: Sequence[Future[Prediction]]) -> list[Prediction]:
    """Return the results, or raise the first error."""
    answered = [future for future in futures if future.done() and not future.cancelled()]
    for future in answered:
        if (failure := future.exception()) is not None:
            raise failure
    if len(answered) < len(futures):
        raise RequestCancelledError("the request was canceled")
    return [future.result() for future in futures]
