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

from twinforce_dynamics.steps import Question
from twinforce_proto import (
    DeadlineExceededError,
    Prediction,
    ServiceError,
    System,
)
from twinforce_service.engine.run_steps import Seen, Walk
from twinforce_service.engine.runs import Journey
from twinforce_service.scheduling.admission import Admission, has_hardly_moved
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import Request

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Moving:
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

    journey: Journey
    walk: Walk
    count: Callable[[System], int]
    n_granted: int
    n_pairs: int = 0
    counted: System | None = None
    is_stalled: bool = False
    request: Request[Prediction] | None = None

    @classmethod
    def of(cls, journey: Journey, walk: Walk, admission: Admission) -> Self:
        """Return a walker that is about to set out."""
        return cls(journey, walk, partial(admission.n_pairs, walk.model), journey.n_ahead)

    def firsts(self) -> list[Request[Prediction]]:
        """Return requests of both kinds for where it sets out, which are to be admitted first."""
        return [self._request(self.walk.system, is_whole=each) for each in (True, False)]

    def asking(self, question: Question) -> Request[Prediction]:
        """Return the request that a question is.

        Raises:
            InvalidSystemError: The coordinates are none that could be evaluated.
            SystemTooLargeError: The atoms have come too close together.
        """
        system = self._at(question)
        if self.counted is None or not has_hardly_moved(self.counted, system):
            self.n_pairs, self.counted = self.count(system), system
        return self._request(system, is_whole=question.is_whole)

    def _request(self, system: System, *, is_whole: bool) -> Request[Prediction]:
        return Request(
            model=self.walk.model,
            system=system,
            outputs=self.walk.whole if is_whole else self.walk.inner,
            deadline=self.journey.deadline,
            request_id=self.journey.request_id,
            walker=self.journey.walker,
            urgency=self.journey.urgency,
            n_pairs=self.n_pairs,
            future=reply(),
        )

    def _at(self, question: Question) -> System:
        cell, own = question.cell, self.walk.system.cell
        is_same = cell is own or np.array_equal(cell, own)
        # What stays need not be checked again.
        return self.walk.system.moved(question.positions, None if is_same else cell)


class Mover:
    """All walkers that one engine moves.

    `begin` and `grant` may be called from any thread, everything else from the one that
    owns the device.
    """

    def __init__(self) -> None:
        # In the order in which they came.
        self._moving: dict[Moving, None] = {}
        # Who can go on, and with what: an answer or an error, None for no answer.
        self._due: deque[tuple[Moving, Prediction | ServiceError | None]] = deque()
        self._granted: deque[tuple[Moving, int]] = deque()

    def __len__(self) -> int:
        return len(self._moving)

    @property
    def is_due(self) -> bool:
        """Whether somebody can go on."""
        return bool(self._due or self._granted)

    @property
    def journeys(self) -> Sequence[Journey]:
        """All that are under way."""
        return [each.journey for each in list(self._moving)]

    def begin(self, moving: Moving) -> None:
        """Let a walker set out."""
        self._moving[moving] = None
        self._due.append((moving, None))

    def grant(self, moving: Moving, n_more: int) -> None:
        """Let a walker tell so many more milestones; 0 where its journey is over."""
        self._granted.append((moving, n_more))

    def advance(self) -> list[Request[Prediction]]:
        """Let everybody go on who can, and return what they ask next."""
        while self._granted:
            moving, n_more = self._granted.popleft()
            moving.n_granted += n_more
            if moving.journey.future.done():
                self._leave(moving)
            elif moving.is_stalled and moving.n_granted:
                moving.is_stalled = False
                self._due.append((moving, None))
        asked = []
        # What cannot be represented is refused when it is asked for.
        with np.errstate(over="ignore", invalid="ignore"):
            while self._due:
                moving, answer = self._due.popleft()
                if moving in self._moving and (request := self._ahead(moving, answer)) is not None:
                    request.future.add_done_callback(partial(self._note, moving))
                    asked.append(request)
        return asked

    def end_all(self, error: ServiceError) -> None:
        """End all journeys with this error."""
        for moving in list(self._moving):
            moving.journey.fail(error)
            self._leave(moving)

    def _ahead(
        self, moving: Moving, answer: Prediction | ServiceError | None
    ) -> Request[Prediction] | None:
        """Let a walker go on; return its question, None if it has to wait or is no more."""
        if moving.journey.future.done():
            self._leave(moving)
            return None
        try:
            moving.request = self._question(moving, answer)
        except ServiceError as error:
            moving.journey.fail(error)
        except Exception as error:
            logger.exception("a walker could not be moved")
            text = "internal error; the logs of the service say more"
            moving.journey.fail(ServiceError(f"{text}: {type(error).__name__}"))
        else:
            if not moving.journey.future.done():
                return moving.request
        self._leave(moving)
        return None

    def _question(
        self, moving: Moving, answer: Prediction | ServiceError | None
    ) -> Request[Prediction] | None:
        """Return what a walker asks next; None where it may not tell more, or has arrived."""
        steps = moving.walk.steps
        while True:
            said = steps.throw(answer) if isinstance(answer, ServiceError) else steps.send(answer)
            answer = None
            if isinstance(said, Seen):
                moving.journey.tell(said.milestone, is_last=said.is_last)
                moving.n_granted -= 1
                moving.is_stalled = moving.n_granted <= 0
                if said.is_last or moving.is_stalled:
                    return None
                continue
            try:
                return moving.asking(said)
            except ServiceError as error:
                answer = error

    def _note(self, moving: Moving, future: "Future[Prediction]") -> None:
        """Take the answer to a question, in the thread that owns the device."""
        if not future.cancelled():
            error = future.exception()
            assert error is None or isinstance(error, ServiceError)
            self._due.append((moving, future.result() if error is None else _said(error)))

    def _leave(self, moving: Moving) -> None:
        self._moving.pop(moving, None)
        moving.walk.steps.close()
        if moving.request is not None:
            moving.request.future.cancel()


def _said(error: ServiceError) -> ServiceError:
    if isinstance(error, DeadlineExceededError):
        return DeadlineExceededError("the deadline passed before the last step")
    return error
