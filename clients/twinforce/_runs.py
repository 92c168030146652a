"""Runs on the server as a client follows them, without I/O; they resume after lost connections."""

from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from google.protobuf.message import Message

from twinforce._conversation import Conversation, Flow
from twinforce._systems import SystemLike, are_fixed, as_system
from twinforce._tracing import current_headers
from twinforce._transports.transport import Call, Method
from twinforce._weights import KeptWeights, ServedWeights
from twinforce_dynamics.codec.checkpoint import CheckpointSummary
from twinforce_dynamics.codec.propagation import propagate_request_to_proto, snapshot_from_proto
from twinforce_dynamics.codec.relaxation import relax_request_to_proto, relaxed_from_proto
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import ServiceError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

T = TypeVar("T")
Update = TypeVar("Update", covariant=True)


class Run(Protocol[Update]):
    """A system that the service moves, which can be resumed from its last update."""

    method: Method
    is_over: bool
    """True if the last update was taken."""

    def remaining_request(self) -> Message:
        """Return a request for the rest of the run."""

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> Update:
        """Decode an update; the run resumes from it after an error."""


class ResumingRun(Generic[T]):
    """A run with retries and a deadline.

    Args:
        conversation: The client's conversation, which determines the retries.
        run: The run to follow.
        timeout: Seconds until the end of the run; None means no limit.
    """

    def __init__(self, conversation: Conversation, run: Run[T], timeout: float | None) -> None:
        self._run = run
        self._retries = conversation.run_retries(timeout)

    @property
    def is_over(self) -> bool:
        """True if the last update was taken."""
        return self._run.is_over

    def next_call(self) -> Call:
        """Return the call that starts or resumes the run."""
        timeout = self._retries.begin()
        message = self._run.remaining_request()
        return Call(self._run.method, message, timeout, self._retries.n_lost, current_headers())

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> T:
        """Decode an update."""
        self._retries.succeed()
        return self._run.take(reply)

    def check_ended(self) -> None:
        """Check that the stream of updates did not end before the run.

        Raises:
            UnavailableError: Updates are missing.
        """
        if not self.is_over:
            raise UnavailableError("the service ended the stream before the last update")

    def pause_after(self, error: ServiceError) -> float:
        """Return the time to wait before resuming, in s; 0 if the run is over.

        Raises:
            ServiceError: The given error, if resuming would not help or there is no time left.
        """
        return 0.0 if self.is_over else self._retries.pause_after(error)


class PropagateRun:
    """A trajectory, resumed from the checkpoint of its last snapshot."""

    method: Method = "Propagate"

    def __init__(self, request: PropagateRequest) -> None:
        self._request = request
        self._weights = _kept(_weights_of(request.origin))
        self._last_step = _step_of(request.origin) + request.n_steps
        self.is_over = False

    def remaining_request(self) -> pb.PropagateRequest:
        """Return a request for the rest of the run."""
        return propagate_request_to_proto(self._request)

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> Snapshot:
        """Decode a snapshot; the run resumes from it after an error."""
        assert isinstance(reply, pb.Snapshot)
        snapshot = snapshot_from_proto(reply)
        self._weights.check(snapshot.provenance, allow_others=self._request.allow_model_change)
        n_left = self._last_step - snapshot.step
        self.is_over = n_left <= 0
        if not self.is_over:
            self._request = replace(self._request, origin=snapshot.checkpoint, n_steps=n_left)
        return snapshot


class RelaxRun:
    """A relaxation, resumed from its last positions."""

    method: Method = "Relax"

    def __init__(self, request: RelaxRequest, *, allow_model_change: bool) -> None:
        self._request = request
        self._weights = _kept()
        self._allow_model_change = allow_model_change
        self._system = request.system
        self._step = 0
        self._first_step = 0
        self.is_over = False

    def remaining_request(self) -> pb.RelaxRequest:
        """Return a request for the rest of the run."""
        self._first_step = self._step
        message = relax_request_to_proto(self._request.moved(self._system))
        message.max_steps = self._request.max_steps - self._first_step
        return message

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> Relaxed:
        """Decode a report; the run resumes from it after an error."""
        assert isinstance(reply, pb.Relaxed)
        report = relaxed_from_proto(reply)
        self._weights.check(report.provenance, allow_others=self._allow_model_change)
        relaxed = replace(report, step=report.step + self._first_step)
        self._step = relaxed.step
        self._system = self._system.moved(relaxed.positions)
        self.is_over = relaxed.is_last
        return relaxed


def propagation(
    conversation: Conversation,
    origin: Start | Snapshot | bytes,
    n_steps: int,
    interval: int,
    model: str | None,
    allow_model_change: bool,
) -> Flow[PropagateRun]:
    """Return the run that `Client.propagate` follows."""
    if isinstance(origin, Snapshot):
        origin = origin.checkpoint
    name = yield from conversation.resolve_model(model or _model_of(origin))
    request = PropagateRequest(name, origin, n_steps, interval, allow_model_change)
    return PropagateRun(request)


def relaxation(
    conversation: Conversation,
    system: SystemLike,
    model: str | None,
    allow_model_change: bool,
    **settings: Any,
) -> Flow[RelaxRun]:
    """Return the run that `Client.relax` follows; `settings` are those of `RelaxRequest`."""
    name = yield from conversation.resolve_model(model)
    start = as_system(system)
    if (fixed := np.flatnonzero(are_fixed(system))).size:
        settings["fixed_atoms"] = [*settings.get("fixed_atoms", ()), *fixed]
    request = RelaxRequest(name, start, **settings)
    return RelaxRun(request, allow_model_change=allow_model_change)


def _model_of(origin: Start | bytes) -> str | None:
    """Return the name of the model that made a checkpoint; None for a start."""
    return CheckpointSummary.from_bytes(origin).model if isinstance(origin, bytes) else None


def _kept(weights: ServedWeights | None = None) -> KeptWeights:
    remedy = "allow_model_change=True goes on with them"
    return KeptWeights("which the run began with", remedy, weights)


def _weights_of(origin: Start | bytes) -> ServedWeights | None:
    """Return the weights that made a checkpoint; None for a start."""
    if not isinstance(origin, bytes):
        return None
    summary = CheckpointSummary.from_bytes(origin)
    return ServedWeights(summary.model, summary.sha256)


def _step_of(origin: Start | bytes) -> int:
    """Return the number of inner steps taken before the origin."""
    return CheckpointSummary.from_bytes(origin).step if isinstance(origin, bytes) else 0
