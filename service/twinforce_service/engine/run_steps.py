"""The steps of a walker as one generator: what it needs evaluated, and what is to be told of it.

No threads, no clock, no I/O: who owns the device answers the questions as they come.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.relaxation import OUTPUTS_OF, Relaxation, Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.steps import NeededEvaluation, State
from twinforce_dynamics.trajectory import Snapshot, Trajectory
from twinforce_proto import (
    InvalidRequestError,
    InvalidSystemError,
    ModelInfo,
    Prediction,
    PredictionError,
    ServiceError,
    System,
    SystemTooLargeError,
)

# Of a walker that has flown apart.
_LOST = (InvalidSystemError, PredictionError, SystemTooLargeError)


@dataclass(frozen=True, slots=True, eq=False)
class Emit:
    """What is to be told of a walker.

    Attributes:
        milestone: That.
        is_last: Whether nothing comes after it.
    """

    update: Snapshot | Relaxed
    is_last: bool


# Is sent the answer of each question, and None for what it tells.
Steps = Generator[NeededEvaluation | Emit, Prediction | None, None]


@dataclass(frozen=True, slots=True, eq=False)
class RunSteps:
    """What a walker does.

    Attributes:
        model: The name of what moves it.
        system: Whose coordinates its questions change.
        inner: The outputs that inner steps ask for.
        whole: Those that the end of an outer step does.
        steps: Its steps. An error that is thrown into them in place of an answer comes out as the
            one that the caller is to get.
    """

    model: str
    system: System
    inner: frozenset[str]
    whole: frozenset[str]
    steps: Steps


def run_steps_of(
    wanted: PropagateRequest | RelaxRequest, find: Callable[[str], ModelInfo]
) -> RunSteps:
    """Return the walk that was asked for.

    Args:
        wanted: What moves, and how far.
        find: Gives what a model declares.

    Raises:
        ServiceError: That makes no sense, or `find` says so.
    """
    return _relaxation(wanted, find) if isinstance(wanted, RelaxRequest) else _run(wanted, find)


def _relaxation(wanted: RelaxRequest, find: Callable[[str], ModelInfo]) -> RunSteps:
    info = find(wanted.model)
    inner, whole = OUTPUTS_OF["direct"], OUTPUTS_OF["conservative"]
    if wanted.force_kind != "hybrid":
        inner = whole = OUTPUTS_OF[wanted.force_kind]
    return RunSteps(info.name, wanted.system, inner, whole, _relaxed(wanted))


def _run(wanted: PropagateRequest, find: Callable[[str], ModelInfo]) -> RunSteps:
    origin = wanted.origin
    checkpoint = Checkpoint.from_bytes(origin) if isinstance(origin, bytes) else None
    info = find(wanted.model or (checkpoint.model if checkpoint else ""))
    if checkpoint is not None:
        _check_model(info, checkpoint)
        start = checkpoint.start
    else:
        assert not isinstance(origin, bytes)
        start = origin
    stride = start.integrator.stride
    for field, steps in (("n_steps", wanted.n_steps), ("interval", wanted.interval)):
        if steps % stride:
            raise InvalidRequestError.expected(
                field, f"a multiple of the {stride} inner_steps", steps
            )
    trajectory = Trajectory(start)
    moved = _moved(trajectory, info, checkpoint, wanted.n_steps, wanted.interval)
    return RunSteps(info.name, start.system, *trajectory.outputs, moved)


def _check_model(info: ModelInfo, checkpoint: Checkpoint) -> None:
    if (info.name, info.sha256) != (checkpoint.model, checkpoint.sha256):
        made_with, served = (
            f"{name} ({sha256[:12]})"
            for name, sha256 in ((checkpoint.model, checkpoint.sha256), (info.name, info.sha256))
        )
        text = f"checkpoint: expected one made with {served}, got one of {made_with}"
        raise InvalidRequestError(text, field="checkpoint")


def _moved(
    trajectory: Trajectory,
    info: ModelInfo,
    checkpoint: Checkpoint | None,
    n_steps: int,
    interval: int,
) -> Steps:
    """Move so many inner steps; tell of each interval and of the end, and of a start first."""
    stride = trajectory.integrator.stride
    if checkpoint is None:
        first, state = 0, (yield from trajectory.begin())
        yield Emit(_snapshot(trajectory, info, state, first, 0.0), is_last=False)
    else:
        first, state = checkpoint.step, checkpoint.state
    for n_done in range(stride, n_steps + stride, stride):
        work_before = state.correction_work
        is_last = n_done == n_steps
        is_emitted = is_last or (interval > 0 and n_done % interval == 0)
        try:
            state = yield from trajectory.step(state)
            if is_emitted:
                snapshot = _snapshot(trajectory, info, state, first + n_done, work_before)
        except _LOST as error:
            raise _lost(error, first + n_done - stride) from error
        except ValueError as error:  # of numbers that no step can be taken with
            raise _lost(PredictionError(str(error)), first + n_done - stride) from error
        if is_emitted:
            yield Emit(snapshot, is_last)


def _snapshot(
    trajectory: Trajectory, info: ModelInfo, state: State, step: int, work_before: float
) -> Snapshot:
    checkpoint = Checkpoint(info.name, info.sha256, trajectory.start_at(state), state, step)
    snapshot = trajectory.snapshot(state, step, work_before)
    return replace(snapshot, checkpoint=checkpoint.to_bytes())


def _relaxed(wanted: RelaxRequest) -> Steps:
    """Relax; tell how far that is at each interval, and at the end."""
    relaxation = Relaxation(wanted)
    descent, step = (yield from relaxation.begin()), 0
    while not (now := relaxation.report(descent, step)).is_last:
        if wanted.interval and step % wanted.interval == 0:
            yield Emit(now, is_last=False)
        try:
            descent = yield from relaxation.step(descent)
        except _LOST as error:
            raise _lost(error, step) from error
        step += 1
    yield Emit(now, is_last=True)


def _lost(error: ServiceError, step: int) -> ServiceError:
    """Return the error of a walker that cannot be evaluated any more, with where that was."""
    kind = type(error) if isinstance(error, PredictionError) else PredictionError
    text = (
        f"after step {step} the system cannot be followed; a shorter time step, other forces or "
        f"a relaxed start may help: {error.message}"
    )
    return kind(text, field=error.field)
