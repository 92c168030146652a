"""One call of a caller, on any transport: submit its systems, wait for them, count the outcome."""

import asyncio
import itertools
import logging
import threading
import time
from concurrent.futures import Future

from twinforce_proto import (
    DeadlineExceededError,
    Prediction,
    PredictRequest,
    RequestCancelledError,
)
from twinforce_service.context import request_id, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import Request, Walker

logger = logging.getLogger(__name__)


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
