"""Moves walkers beside the device: what a step asks waits in the queue like any request.

When a batch is answered, all walkers of it go on in the thread that owns the device, before the
next batch is formed: they return to the queue together, and nothing else is between two steps.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from twinforce_dynamics.steps import NeededEvaluation
from twinforce_proto import (
    DeadlineExceededError,
    Prediction,
    ServiceError,
    System,
)
from twinforce_service.engine.run_steps import Emit, RunSteps
from twinforce_service.engine.runs import Run
from twinforce_service.scheduling.admission import Admission, has_hardly_moved
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import Request

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ActiveRun:
    """A walker under way.

    Attributes:
        journey: Whom it tells.
        walk: What it does.
        count: Returns about how many neighbor pairs a system has, or refuses so many.
        n_granted: Milestones that it may tell.
        n_pairs: About how many it has.
        counted: Where it had them.
        is_stalled: Whether it waits for more to be granted.
        request: Its question, while that waits or is on the device.
    """

    run: Run
    run_steps: RunSteps
    count: Callable[[System], int]
    credit: int
    n_pairs: int = 0
    counted: System | None = None
    is_waiting_for_credit: bool = False
    request: Request[Prediction] | None = None

    @classmethod
    def of(cls, run: Run, run_steps: RunSteps, admission: Admission) -> Self:
        """Return a walker that is about to set out."""
        return cls(run, run_steps, partial(admission.n_pairs, run_steps.model), run.credit)

    def firsts(self) -> list[Request[Prediction]]:
        """Return requests of both kinds for where it sets out, which are to be admitted first."""
        return [self._request(self.run_steps.system, is_whole=each) for each in (True, False)]

    def asking(self, question: NeededEvaluation) -> Request[Prediction]:
        """Return the request that a question is.

        Raises:
            InvalidSystemError: The coordinates are none that could be evaluated.
            SystemTooLargeError: The atoms have come too close together.
        """
        system = self._at(question)
        if self.counted is None or not has_hardly_moved(self.counted, system):
            self.n_pairs, self.counted = self.count(system), system
        return self._request(system, is_whole=question.is_outer)

    def _request(self, system: System, *, is_whole: bool) -> Request[Prediction]:
        return Request(
            model=self.run_steps.model,
            system=system,
            outputs=self.run_steps.whole if is_whole else self.run_steps.inner,
            deadline=self.run.deadline,
            request_id=self.run.request_id,
            walker=self.run.walker,
            urgency=self.run.urgency,
            n_pairs=self.n_pairs,
            future=reply(),
        )

    def _at(self, question: NeededEvaluation) -> System:
        cell, own = question.cell, self.run_steps.system.cell
        is_same = cell is own or np.array_equal(cell, own)
        # What stays need not be checked again.
        return self.run_steps.system.moved(question.positions, None if is_same else cell)


class Runner:
    """All walkers that one engine moves.

    `begin` and `add_credit` may be called from any thread, everything else from the one that
    owns the device.
    """

    def __init__(self) -> None:
        # In the order in which they came.
        self._active: dict[ActiveRun, None] = {}
        # Who can go on, and with what: an answer or an error, None for no answer.
        self._due: deque[tuple[ActiveRun, Prediction | ServiceError | None]] = deque()
        self._new_credit: deque[tuple[ActiveRun, int]] = deque()

    def __len__(self) -> int:
        return len(self._active)

    @property
    def is_due(self) -> bool:
        """Whether somebody can go on."""
        return bool(self._due or self._new_credit)

    @property
    def runs(self) -> Sequence[Run]:
        """All that are under way."""
        return [each.run for each in list(self._active)]

    def begin(self, active: ActiveRun) -> None:
        """Let a walker set out."""
        self._active[active] = None
        self._due.append((active, None))

    def add_credit(self, active: ActiveRun, n_more: int) -> None:
        """Let a walker tell so many more milestones; 0 where its journey is over."""
        self._new_credit.append((active, n_more))

    def advance(self) -> list[Request[Prediction]]:
        """Let everybody go on who can, and return what they ask next."""
        while self._new_credit:
            active, n_more = self._new_credit.popleft()
            active.credit += n_more
            if active.run.future.done():
                self._leave(active)
            elif active.is_waiting_for_credit and active.credit:
                active.is_waiting_for_credit = False
                self._due.append((active, None))
        asked = []
        # What cannot be represented is refused when it is asked for.
        with np.errstate(over="ignore", invalid="ignore"):
            while self._due:
                active, answer = self._due.popleft()
                if active in self._active and (request := self._ahead(active, answer)) is not None:
                    request.future.add_done_callback(partial(self._note, active))
                    asked.append(request)
        return asked

    def end_all(self, error: ServiceError) -> None:
        """End all journeys with this error."""
        for active in list(self._active):
            active.run.fail(error)
            self._leave(active)

    def _ahead(
        self, active: ActiveRun, answer: Prediction | ServiceError | None
    ) -> Request[Prediction] | None:
        """Let a walker go on; return its question, None if it has to wait or is no more."""
        if active.run.future.done():
            self._leave(active)
            return None
        try:
            active.request = self._question(active, answer)
        except ServiceError as error:
            active.run.fail(error)
        except Exception as error:
            logger.exception("a walker could not be moved")
            text = "internal error; the logs of the service say more"
            active.run.fail(ServiceError(f"{text}: {type(error).__name__}"))
        else:
            if not active.run.future.done():
                return active.request
        self._leave(active)
        return None

    def _question(
        self, active: ActiveRun, answer: Prediction | ServiceError | None
    ) -> Request[Prediction] | None:
        """Return what a walker asks next; None where it may not tell more, or has arrived."""
        steps = active.run_steps.steps
        while True:
            said = steps.throw(answer) if isinstance(answer, ServiceError) else steps.send(answer)
            answer = None
            if isinstance(said, Emit):
                active.run.tell(said.update, is_last=said.is_last)
                active.credit -= 1
                active.is_waiting_for_credit = active.credit <= 0
                if said.is_last or active.is_waiting_for_credit:
                    return None
                continue
            try:
                return active.asking(said)
            except ServiceError as error:
                answer = error

    def _note(self, active: ActiveRun, future: "Future[Prediction]") -> None:
        """Take the answer to a question, in the thread that owns the device."""
        if not future.cancelled():
            error = future.exception()
            assert error is None or isinstance(error, ServiceError)
            self._due.append((active, future.result() if error is None else _said(error)))

    def _leave(self, active: ActiveRun) -> None:
        self._active.pop(active, None)
        active.run_steps.steps.close()
        if active.request is not None:
            active.request.future.cancel()


def _said(error: ServiceError) -> ServiceError:
    if isinstance(error, DeadlineExceededError):
        return DeadlineExceededError("the deadline passed before the last step")
    return error
