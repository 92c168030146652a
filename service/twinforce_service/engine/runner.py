"""Move runs beside the device; their evaluations wait in the queue like any request.

When a batch has been evaluated, all of its runs advance in the thread that owns the device, before
the next batch is formed. They return to the queue together, and no other thread takes part in a
step.
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
from twinforce_service.logs import internal_error
from twinforce_service.scheduling.admission import Admission, has_hardly_moved
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import Request

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ActiveRun:
    """A run that has been accepted and is not over.

    Attributes:
        run: The run.
        run_steps: Its steps.
        count_pairs: Returns the approximate number of neighbor pairs of a system, or refuses the
            system.
        credit: Number of updates that may be sent.
        n_pairs: Approximate number of neighbor pairs.
        counted_system: System whose pairs were counted last.
        is_waiting_for_credit: True while no update may be sent.
        request: The last request for an evaluation.
    """

    run: Run
    run_steps: RunSteps
    count_pairs: Callable[[System], int]
    credit: int
    n_pairs: int = 0
    counted_system: System | None = None
    is_waiting_for_credit: bool = False
    request: Request[Prediction] | None = None

    @classmethod
    def of(cls, run: Run, run_steps: RunSteps, admission: Admission) -> Self:
        """Return a run that has taken no step yet."""
        return cls(run, run_steps, partial(admission.n_pairs, run_steps.model), run.credit)

    def initial_requests(self) -> list[Request[Prediction]]:
        """Return requests of both kinds for the first system, which must pass admission."""
        system = self.run_steps.system
        return [self._request(system, is_outer=is_outer) for is_outer in (True, False)]

    def request_for(self, needed: NeededEvaluation) -> Request[Prediction]:
        """Return the request for the evaluation that a step needs.

        Raises:
            InvalidSystemError: The coordinates cannot be evaluated.
            SystemTooLargeError: The atoms have come too close together.
        """
        system = self._moved(needed)
        # Of the evaluations of a run, the trace shows the first.
        trace = self.run.trace if self.counted_system is None else ""
        if self.counted_system is None or not has_hardly_moved(self.counted_system, system):
            self.n_pairs, self.counted_system = self.count_pairs(system), system
        return self._request(system, is_outer=needed.is_outer, trace=trace)

    def _request(self, system: System, *, is_outer: bool, trace: str = "") -> Request[Prediction]:
        steps = self.run_steps
        return Request(
            model=steps.model,
            system=system,
            outputs=steps.outer_outputs if is_outer else steps.inner_outputs,
            deadline=self.run.deadline,
            request_id=self.run.request_id,
            walker=self.run.walker,
            urgency=self.run.urgency,
            caller=self.run.caller,
            connection=self.run.connection,
            n_pairs=self.n_pairs,
            is_suspect=self.run.is_suspect,
            number=self.run.number,
            trace=trace,
            future=reply(),
        )

    def _moved(self, needed: NeededEvaluation) -> System:
        cell, own = needed.cell, self.run_steps.system.cell
        is_same = cell is own or np.array_equal(cell, own)
        # An unchanged cell need not be checked again.
        return self.run_steps.system.moved(needed.positions, None if is_same else cell)


class Runner:
    """The runs of one engine.

    `begin` and `add_credit` may be called in any thread, all other methods only in the thread that
    owns the device.
    """

    def __init__(self) -> None:
        # In order of arrival.
        self._active: dict[ActiveRun, None] = {}
        # Runs that can advance, with the answer to their request; None if they made none.
        self._due: deque[tuple[ActiveRun, Prediction | ServiceError | None]] = deque()
        self._new_credit: deque[tuple[ActiveRun, int]] = deque()

    def __len__(self) -> int:
        return len(self._active)

    @property
    def is_due(self) -> bool:
        """True if a run can advance."""
        return bool(self._due or self._new_credit)

    @property
    def runs(self) -> Sequence[Run]:
        """All runs that are not over."""
        return [active.run for active in list(self._active)]

    def begin(self, active: ActiveRun) -> None:
        """Accept a run."""
        self._active[active] = None
        self._due.append((active, None))

    def add_credit(self, active: ActiveRun, n_more: int) -> None:
        """Let a run send more updates; 0 makes the runner notice that the run is over."""
        self._new_credit.append((active, n_more))

    def advance(self) -> list[Request[Prediction]]:
        """Advance all runs that can, and return their next requests."""
        while self._new_credit:
            active, n_more = self._new_credit.popleft()
            active.credit += n_more
            if active.run.future.done():
                self._remove(active)
            elif active.is_waiting_for_credit and active.credit:
                active.is_waiting_for_credit = False
                self._due.append((active, None))
        requests = []
        # Numbers that overflow are refused in the next request.
        with np.errstate(over="ignore", invalid="ignore"):
            while self._due:
                active, answer = self._due.popleft()
                if active not in self._active:
                    continue
                if (request := self._advance_run(active, answer)) is not None:
                    request.future.add_done_callback(partial(self._note_answer, active))
                    requests.append(request)
        return requests

    def end_all(self, error: ServiceError) -> None:
        """End all runs with this error."""
        for active in list(self._active):
            active.run.fail(error)
            self._remove(active)

    def _advance_run(
        self, active: ActiveRun, answer: Prediction | ServiceError | None
    ) -> Request[Prediction] | None:
        """Advance a run; return its next request, or None if it has to wait or is over."""
        if active.run.future.done():
            self._remove(active)
            return None
        try:
            active.request = self._next_request(active, answer)
        except ServiceError as error:
            active.run.fail(error)
        except Exception as error:
            logger.exception("a run failed unexpectedly")
            active.run.fail(internal_error(type(error).__name__))
        else:
            if not active.run.future.done():
                return active.request
        self._remove(active)
        return None

    def _next_request(
        self, active: ActiveRun, answer: Prediction | ServiceError | None
    ) -> Request[Prediction] | None:
        """Return the next request of a run, or None if it is out of credit or at its end."""
        steps = active.run_steps.steps
        while True:
            if isinstance(answer, ServiceError):
                yielded = steps.throw(answer)
            else:
                yielded = steps.send(answer)
            answer = None
            if isinstance(yielded, Emit):
                active.run.emit(yielded.update, is_last=yielded.is_last)
                active.credit -= 1
                active.is_waiting_for_credit = active.credit <= 0
                if yielded.is_last or active.is_waiting_for_credit:
                    return None
                continue
            try:
                return active.request_for(yielded)
            except ServiceError as error:
                answer = error

    def _note_answer(self, active: ActiveRun, future: "Future[Prediction]") -> None:
        """Keep the answer to a request, in the thread that owns the device."""
        if not future.cancelled():
            error = future.exception()
            assert error is None or isinstance(error, ServiceError)
            self._due.append((active, future.result() if error is None else _for_run(error)))

    def _remove(self, active: ActiveRun) -> None:
        self._active.pop(active, None)
        active.run_steps.steps.close()
        if active.request is not None:
            active.request.future.cancel()


def _for_run(error: ServiceError) -> ServiceError:
    """Return an error of one request as the error of the whole run."""
    if isinstance(error, DeadlineExceededError):
        return DeadlineExceededError("the deadline passed before the last step")
    return error
