"""What to ask, and ask again, while a system moves on the server, without any I/O."""

import time
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from twinforce._conversation import Conversation
from twinforce._transports.transport import Call, Method
from twinforce_dynamics.codec.checkpoint import CheckpointSummary
from twinforce_dynamics.codec.propagation import propagate_request_to_proto, snapshot_from_proto
from twinforce_dynamics.codec.relaxation import relax_request_to_proto, relaxed_from_proto
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import OverloadedError, ServiceError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

Said = TypeVar("Said", covariant=True)
T = TypeVar("T")


class Run(Protocol[Said]):
    """Something that the service does step by step, and can be asked to go on with."""

    method: Method
    is_over: bool
    """Whether the last reply was taken."""

    def rest(self) -> Message:
        """Return what asks for all that is left."""

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> Said:
        """Return what a reply says; from now on it is where to go on from."""


class ResumingRun(Generic[T]):
    """An errand that survives lost connections.

    Args:
        conversation: Says when to ask again.
        errand: What is to be done.
        timeout: For all of it, in s; None: as long as it takes.
    """

    def __init__(self, conversation: Conversation, run: Run[T], timeout: float | None) -> None:
        self._conversation = conversation
        self._run = run
        self._n_failures = 0
        self._give_up_at = None if timeout is None else time.monotonic() + timeout

    @property
    def is_over(self) -> bool:
        """Whether the last reply was taken."""
        return self._run.is_over

    def call(self) -> Call:
        """Return what to send now."""
        ahead = self._give_up_at and max(self._give_up_at - time.monotonic(), 0.001)
        return Call(self._run.method, self._run.rest(), ahead)

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> T:
        """Return what a reply says."""
        self._n_failures = 0
        return self._run.take(reply)

    def pause_after(self, error: ServiceError) -> float:
        """Return how long to wait before asking again, in s, or raise the error."""
        pause = None
        if isinstance(error, OverloadedError | UnavailableError):
            pause = self._conversation.pause_after(error, self._n_failures)
        if pause is None:
            raise error
        if self._give_up_at is not None and time.monotonic() + pause > self._give_up_at:
            raise error
        self._n_failures += 1
        return pause


class PropagateRun:
    """A system on the move, which goes on from its last snapshot."""

    method: Method = "Propagate"

    def __init__(self, request: PropagateRequest) -> None:
        self._request = request
        self._end = step_of(request.origin) + request.n_steps
        self.is_over = False

    def rest(self) -> pb.PropagateRequest:
        """Return what asks for all that is left."""
        return propagate_request_to_proto(self._request)

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> Snapshot:
        """Return the snapshot in a reply."""
        assert isinstance(reply, pb.Snapshot)
        snapshot = snapshot_from_proto(reply)
        self.is_over = snapshot.step >= self._end
        if not self.is_over:
            n_left = self._end - snapshot.step
            self._request = replace(self._request, origin=snapshot.checkpoint, n_steps=n_left)
        return snapshot


class RelaxRun:
    """A system that relaxes, from its last positions on."""

    method: Method = "Relax"

    def __init__(self, request: RelaxRequest) -> None:
        self._request = request
        self._n_before = 0
        self._last = 0
        self._system = request.system
        self.is_over = False

    def rest(self) -> pb.RelaxRequest:
        """Return what asks for all that is left."""
        self._n_before = self._last
        message = relax_request_to_proto(self._request.moved(self._system))
        message.max_steps = self._request.max_steps - self._n_before
        return message

    def take(self, reply: pb.Snapshot | pb.Relaxed) -> Relaxed:
        """Return how far a reply says that it is."""
        assert isinstance(reply, pb.Relaxed)
        said = relaxed_from_proto(reply)
        relaxed = replace(said, step=said.step + self._n_before)
        self._last = relaxed.step
        self._system = self._system.moved(relaxed.positions)
        self.is_over = relaxed.is_last
        return relaxed


def origin_of(origin: Start | Snapshot | bytes) -> Start | bytes:
    """Return what a request holds: a start, or the checkpoint of a snapshot."""
    return origin.checkpoint if isinstance(origin, Snapshot) else origin


def model_of(origin: Start | bytes) -> str | None:
    """Return the name of the model that made a checkpoint; None of a start."""
    return CheckpointSummary.from_bytes(origin).model if isinstance(origin, bytes) else None


def step_of(origin: Start | bytes) -> int:
    """Return how many inner steps were taken to get there."""
    return CheckpointSummary.from_bytes(origin).step if isinstance(origin, bytes) else 0


def ended() -> UnavailableError:
    """Return the error of a stream that ended too early."""
    return UnavailableError("the service ended the stream before the last snapshot")
