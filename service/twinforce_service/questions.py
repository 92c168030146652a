"""The questions of a step, answered by the engine."""

import asyncio
import time
from typing import TypeVar, cast

import numpy as np

from twinforce_dynamics.mts import Question, Steps
from twinforce_proto import DeadlineExceededError, OverloadedError, Prediction, System
from twinforce_service.batching import Request, Walker
from twinforce_service.engine import Engine
from twinforce_service.logs import request_id

# What a walker waits where the queue is full and nothing is said, in s.
_PAUSE = 0.1

T = TypeVar("T")


class Questions:
    """Asks the engine what the steps of one system ask, one request at a time.

    Args:
        engine: What evaluates.
        model: Its name.
        system: Whose coordinates the questions change.
        inner: The outputs that inner steps ask for.
        whole: Those that the end of an outer step does.
        deadline: When nobody waits any longer, on the clock of `time.monotonic`, in s.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        system: System,
        inner: frozenset[str],
        whole: frozenset[str],
        deadline: float | None,
    ) -> None:
        self._engine = engine
        self._model = model
        self._system = system
        self._inner = inner
        self._whole = whole
        self._deadline = deadline
        self._walker = Walker()
        self._is_under_way = False

    async def answered(self, steps: Steps[T]) -> T:
        """Return where steps lead.

        Raises:
            ServiceError: One of their questions has no answer, or not in time.
        """
        prediction: Prediction | None = None
        while True:
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # the next question is checked
                    question = steps.send(prediction) if prediction else next(steps)
            except StopIteration as end:
                return cast(T, end.value)
            prediction = await self._evaluated(question)

    async def _evaluated(self, question: Question) -> Prediction:
        is_same = np.array_equal(question.cell, self._system.cell)
        cell = None if is_same else question.cell  # what stays need not be checked again
        request: Request[Prediction] = Request(
            model=self._model,
            system=self._system.moved(question.positions, cell),
            outputs=self._whole if question.is_whole else self._inner,
            deadline=self._deadline,
            request_id=request_id.get(),
            walker=self._walker,
        )
        ahead = None if self._deadline is None else self._deadline - time.monotonic()
        try:
            async with asyncio.timeout(ahead):
                await self._submit(request)
                return await asyncio.wrap_future(request.future)
        except TimeoutError as error:
            raise DeadlineExceededError("the deadline passed before the last step") from error

    async def _submit(self, request: Request[Prediction]) -> None:
        """Submit; where the queue is full, only what is not under way is refused."""
        while True:
            try:
                self._engine.submit([request])
            except OverloadedError as error:
                if not self._is_under_way:
                    raise
                await asyncio.sleep(error.retry_after or _PAUSE)
            else:
                self._is_under_way = True
                return
