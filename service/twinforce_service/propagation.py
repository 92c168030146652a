"""Dynamics beside the model: walkers whose every step is requests like those of any caller."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from twinforce_dynamics.checkpoint import Checkpoint
from twinforce_dynamics.course import Course, Snapshot
from twinforce_dynamics.messages import PropagateRequest
from twinforce_dynamics.mts import State
from twinforce_dynamics.relaxation import OUTPUTS_OF, Relaxation, Relaxed, RelaxRequest
from twinforce_dynamics.start import Start, invalid
from twinforce_proto import (
    InvalidRequestError,
    InvalidSystemError,
    ModelInfo,
    OverloadedError,
    PredictionError,
    ServiceError,
    SystemTooLargeError,
)
from twinforce_service.engine import Engine
from twinforce_service.questions import Questions

# What a caller is advised to wait where too many walkers are under way, in s.
_RETRY_AFTER = 5.0
# Of a walker that has flown apart.
_LOST = (InvalidSystemError, PredictionError, SystemTooLargeError)


class Propagations:
    """Moves systems, each by a coroutine of its caller's that waits for one request at a time.

    What a step needs evaluated waits in the queue of the engine like any system, so that walkers
    of different callers share batches. Nothing is computed ahead of the snapshot that a caller
    has not taken yet, and nothing after a caller has gone.

    Args:
        engine: What evaluates.
        max_running: Walkers that are under way at the same time.
        max_steps: Inner steps of one call.
    """

    def __init__(self, engine: Engine, max_running: int, max_steps: int) -> None:
        self._engine = engine
        self._max_running = max_running
        self._max_steps = max_steps
        self._n_running = 0

    @property
    def n_running(self) -> int:
        """How many walkers are under way."""
        return self._n_running

    async def snapshots(
        self, wanted: PropagateRequest, timeout: float | None
    ) -> AsyncGenerator[Snapshot, None]:
        """Move a system; yield what is to be seen of it, and its start first unless it goes on.

        Args:
            wanted: What moves, and how far.
            timeout: How long the caller waits for all of it, in s; None: until it goes away.

        Raises:
            ServiceError: What was asked for makes no sense, an evaluation failed, or time was up.
        """
        self._check_room("n_steps", wanted.n_steps)
        self._n_running += 1
        try:
            walker = self._walker(wanted, timeout)
            async for snapshot in walker.snapshots(wanted.n_steps, wanted.interval):
                yield snapshot
        finally:
            self._n_running -= 1

    async def relaxations(
        self, wanted: RelaxRequest, timeout: float | None
    ) -> AsyncGenerator[Relaxed, None]:
        """Relax a system; yield how far that is at each interval, and at the end.

        Arguments and errors are those of `snapshots`.
        """
        self._check_room("max_steps", wanted.max_steps)
        self._n_running += 1
        try:
            info = self._engine.find(wanted.model)
            inner, whole = OUTPUTS_OF["direct"], OUTPUTS_OF["conservative"]
            deadline = _deadline(timeout)
            questions = Questions(self._engine, info.name, wanted.system, inner, whole, deadline)
            async for relaxed in _relaxed(wanted, questions):
                yield relaxed
        finally:
            self._n_running -= 1

    def _check_room(self, field: str, n_steps: int) -> None:
        if n_steps > self._max_steps:
            raise invalid(field, f"at most {self._max_steps} in one call", n_steps)
        if self._n_running >= self._max_running:
            text = f"{self._max_running} systems are already on the move; try again later"
            raise OverloadedError(text, retry_after=_RETRY_AFTER)

    def _walker(self, wanted: PropagateRequest, timeout: float | None) -> "Walker":
        origin = wanted.origin
        checkpoint = Checkpoint.from_bytes(origin) if isinstance(origin, bytes) else None
        info = self._engine.find(wanted.model or (checkpoint.model if checkpoint else ""))
        if checkpoint is not None:
            _check_model(info, checkpoint)
            start = checkpoint.start
        else:
            assert isinstance(origin, Start)
            start = origin
        stride = start.integrator.stride
        for field, steps in (("n_steps", wanted.n_steps), ("interval", wanted.interval)):
            if steps % stride:
                raise invalid(field, f"a multiple of the {stride} inner_steps", steps)
        return Walker(self._engine, info, start, checkpoint, _deadline(timeout))


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Where a walker is: at the end of an outer step.

    Attributes:
        state: Of its numbers.
        step: Inner ones that it has taken.
        work_before: The work of the correction up to the outer step before, in eV.
    """

    state: State
    step: int
    work_before: float


class Walker:
    """One system on the move.

    Args:
        engine: What evaluates.
        info: Of its model.
        start: What it set out with.
        checkpoint: What it goes on from; None: it begins.
        deadline: When nobody waits any longer, on the clock of `time.monotonic`, in s.
    """

    def __init__(
        self,
        engine: Engine,
        info: ModelInfo,
        start: Start,
        checkpoint: Checkpoint | None,
        deadline: float | None,
    ) -> None:
        self._info = info
        self._course = Course(start)
        self._checkpoint = checkpoint
        inner, whole = self._course.outputs
        self._questions = Questions(engine, info.name, start.system, inner, whole, deadline)

    async def snapshots(self, n_steps: int, interval: int) -> AsyncGenerator[Snapshot, None]:
        """Move this many inner steps; yield at each interval, and at the end."""
        if self._checkpoint is not None:
            first = self._checkpoint.step
            state = self._checkpoint.state
            moment = Moment(state, first, state.correction_work)
        else:
            first, state = 0, await self._questions.answered(self._course.begin())
            moment = Moment(state, first, 0.0)
            yield self._snapshot(moment)
        while moment.step < first + n_steps:
            moment = await self._advanced(moment)
            n_done = moment.step - first
            if n_done == n_steps or (interval and n_done % interval == 0):
                yield self._snapshot(moment)

    async def _advanced(self, moment: Moment) -> Moment:
        step = moment.step + self._course.integrator.stride
        try:
            state = await self._questions.answered(self._course.step(moment.state))
        except _LOST as error:
            raise _lost(error, moment.step) from error
        except ValueError as error:  # of numbers that no step can be taken with
            raise _lost(PredictionError(str(error)), moment.step) from error
        return Moment(state, step, moment.state.correction_work)

    def _snapshot(self, moment: Moment) -> Snapshot:
        state, step = moment.state, moment.step
        start = self._course.start_at(state)
        checkpoint = Checkpoint(self._info.name, self._info.sha256, start, state, step)
        snapshot = self._course.snapshot(state, step, moment.work_before)
        return replace(snapshot, checkpoint=checkpoint.to_bytes())


async def _relaxed(wanted: RelaxRequest, questions: Questions) -> AsyncGenerator[Relaxed, None]:
    relaxation = Relaxation(wanted)
    descent, step = await questions.answered(relaxation.begin()), 0
    while not (now := relaxation.report(descent, step)).is_last:
        if wanted.interval and step % wanted.interval == 0:
            yield now
        try:
            descent = await questions.answered(relaxation.step(descent))
        except _LOST as error:
            raise _lost(error, step) from error
        step += 1
    yield now


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _check_model(info: ModelInfo, checkpoint: Checkpoint) -> None:
    if (info.name, info.sha256) != (checkpoint.model, checkpoint.sha256):
        made_with, served = (
            f"{name} ({sha256[:12]})"
            for name, sha256 in ((checkpoint.model, checkpoint.sha256), (info.name, info.sha256))
        )
        text = f"checkpoint: expected one made with {served}, got one of {made_with}"
        raise InvalidRequestError(text, field="checkpoint")


def _lost(error: ServiceError, step: int) -> ServiceError:
    """Return the error of a walker that cannot be evaluated any more, with where that was."""
    kind = type(error) if isinstance(error, PredictionError) else PredictionError
    text = (
        f"after step {step} the system cannot be followed; a shorter time step, other forces or "
        f"a relaxed start may help: {error.message}"
    )
    return kind(text, field=error.field)
