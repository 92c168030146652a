"""The steps of a run as one generator, which yields the evaluations it needs and its updates.

The generator knows no threads, no clock and no I/O; the owner of the device supplies predictions.
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
    ModelChangedError,
    ModelInfo,
    Prediction,
    PredictionError,
    ServiceError,
    System,
    SystemTooLargeError,
)

# Errors that a diverging system causes.
_DIVERGED = (InvalidSystemError, PredictionError, SystemTooLargeError)


@dataclass(frozen=True, slots=True, eq=False)
class Emit:
    """An update to send.

    Attributes:
        update: A state of the propagation, or the progress of the relaxation.
        is_last: True if no update follows.
    """

    update: Snapshot | Relaxed
    is_last: bool


# Receives a prediction for each needed evaluation, and None for each update.
Steps = Generator[NeededEvaluation | Emit, Prediction | None, None]


@dataclass(frozen=True, slots=True, eq=False)
class RunSteps:
    """The steps of a run, and what its evaluations have in common.

    Attributes:
        model: Name of the model.
        system: System at the start; evaluations replace its coordinates.
        inner_outputs: Outputs that inner steps need.
        outer_outputs: Outputs that the end of an outer step needs.
        steps: The generator. An error that is thrown into it in place of a prediction comes out as
            the error for the client.
    """

    model: str
    system: System
    inner_outputs: frozenset[str]
    outer_outputs: frozenset[str]
    steps: Steps


def run_steps_of(
    request: PropagateRequest | RelaxRequest, find: Callable[[str], ModelInfo]
) -> RunSteps:
    """Return the steps of a run.

    Args:
        request: Request for a propagation or a relaxation.
        find: Returns the declaration of a model.

    Raises:
        ServiceError: The request is invalid, or there is no such model.
    """
    if isinstance(request, RelaxRequest):
        return _relaxation_steps(request, find)
    return _propagation_steps(request, find)


def _relaxation_steps(request: RelaxRequest, find: Callable[[str], ModelInfo]) -> RunSteps:
    info = find(request.model)
    inner, outer = OUTPUTS_OF["direct"], OUTPUTS_OF["conservative"]
    if request.force_kind != "hybrid":
        inner = outer = OUTPUTS_OF[request.force_kind]
    return RunSteps(info.name, request.system, inner, outer, _relax(request))


def _propagation_steps(request: PropagateRequest, find: Callable[[str], ModelInfo]) -> RunSteps:
    origin = request.origin
    checkpoint = Checkpoint.from_bytes(origin) if isinstance(origin, bytes) else None
    info = find(request.model or (checkpoint.model if checkpoint else ""))
    if checkpoint is not None:
        if not request.allow_model_change:
            _check_model(info, checkpoint)
        start = checkpoint.start
    else:
        assert not isinstance(origin, bytes)
        start = origin
    stride = start.integrator.stride
    for field, n_steps in (("n_steps", request.n_steps), ("interval", request.interval)):
        if n_steps % stride:
            expected = f"a multiple of the {stride} inner_steps"
            raise InvalidRequestError.expected(field, expected, n_steps)
    trajectory = Trajectory(start)
    steps = _propagate(trajectory, info, checkpoint, request.n_steps, request.interval)
    return RunSteps(info.name, start.system, *trajectory.outputs, steps)


def _check_model(info: ModelInfo, checkpoint: Checkpoint) -> None:
    if not _is_of(info, checkpoint):
        made_with, served = (
            f"{name} ({sha256[:12]})"
            for name, sha256 in ((checkpoint.model, checkpoint.sha256), (info.name, info.sha256))
        )
        text = (
            f"checkpoint: expected one made with {served}, got one made with {made_with}; "
            "allow_model_change evaluates it anew"
        )
        raise ModelChangedError(text, field="checkpoint")


def _is_of(info: ModelInfo, checkpoint: Checkpoint) -> bool:
    """Return True if the checkpoint was made with the weights of this model."""
    return (info.name, info.sha256) == (checkpoint.model, checkpoint.sha256)


def _propagate(
    trajectory: Trajectory,
    info: ModelInfo,
    checkpoint: Checkpoint | None,
    n_steps: int,
    interval: int,
) -> Steps:
    """Take inner steps; emit snapshots of a new start, of each interval and of the end."""
    stride = trajectory.integrator.stride
    if checkpoint is None:
        first, state = 0, (yield from trajectory.begin())
        yield Emit(_snapshot(trajectory, info, state, first, 0.0), is_last=False)
    else:
        first, state = checkpoint.step, checkpoint.state
        if not _is_of(info, checkpoint):
            state = yield from trajectory.again(state)
    for n_done in range(stride, n_steps + stride, stride):
        work_before = state.correction_work
        is_last = n_done == n_steps
        is_emitted = is_last or (interval > 0 and n_done % interval == 0)
        try:
            state = yield from trajectory.step(state)
            if is_emitted:
                snapshot = _snapshot(trajectory, info, state, first + n_done, work_before)
        except _DIVERGED as error:
            raise _divergence(error, first + n_done - stride) from error
        except ValueError as error:  # from numbers that cannot be integrated
            raise _divergence(PredictionError(str(error)), first + n_done - stride) from error
        if is_emitted:
            yield Emit(snapshot, is_last)


def _snapshot(
    trajectory: Trajectory, info: ModelInfo, state: State, step: int, work_before: float
) -> Snapshot:
    checkpoint = Checkpoint(info.name, info.sha256, trajectory.start_at(state), state, step)
    snapshot = trajectory.snapshot(state, step, work_before)
    return replace(snapshot, checkpoint=checkpoint.to_bytes())


def _relax(request: RelaxRequest) -> Steps:
    """Relax; emit the progress at each interval and at the end."""
    relaxation = Relaxation(request)
    descent, step = (yield from relaxation.begin()), 0
    while not (now := relaxation.report(descent, step)).is_last:
        if request.interval and step % request.interval == 0:
            yield Emit(now, is_last=False)
        try:
            descent = yield from relaxation.step(descent)
        except _DIVERGED as error:
            raise _divergence(error, step) from error
        step += 1
    yield Emit(now, is_last=True)


def _divergence(error: ServiceError, step: int) -> ServiceError:
    """Return the error of a system that could not be evaluated after this step."""
    kind = type(error) if isinstance(error, PredictionError) else PredictionError
    text = (
        f"after step {step} the system cannot be followed; a shorter time step, other forces or "
        f"a relaxed start may help: {error.message}"
    )
    return kind(text, field=error.field)
