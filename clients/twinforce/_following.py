"""What to ask, and ask again, while a system moves on the server, without any I/O."""

import time

from twinforce._flow import Call, Conversation
from twinforce_dynamics.checkpoint import Checkpoint
from twinforce_dynamics.course import Snapshot
from twinforce_dynamics.messages import (
    PropagateRequest,
    propagate_request_to_proto,
    snapshot_from_proto,
)
from twinforce_dynamics.start import Start
from twinforce_proto import OverloadedError, ServiceError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb


class Following:
    """A system on the move: after a lost connection it goes on from the last snapshot.

    Args:
        conversation: Says when to ask again.
        request: What moves, and how far.
        timeout: For all of it, in s; None: as long as it takes.
    """

    def __init__(
        self, conversation: Conversation, request: PropagateRequest, timeout: float | None
    ) -> None:
        self._conversation = conversation
        self._model = request.model
        self._origin = request.origin
        self._interval = request.interval
        self._end = step_of(request.origin) + request.n_steps
        self._n_left = request.n_steps
        self._n_failures = 0
        self._give_up_at = None if timeout is None else time.monotonic() + timeout

    @property
    def is_over(self) -> bool:
        """Whether the last snapshot was taken."""
        return not self._n_left

    def call(self) -> Call:
        """Return what to send now."""
        request = PropagateRequest(self._model, self._origin, self._n_left, self._interval)
        ahead = self._give_up_at and max(self._give_up_at - time.monotonic(), 0.001)
        return Call("Propagate", propagate_request_to_proto(request), ahead)

    def take(self, reply: pb.Snapshot) -> Snapshot:
        """Return the snapshot in a reply; from now on it is where to go on from."""
        snapshot = snapshot_from_proto(reply)
        self._origin = snapshot.checkpoint
        self._n_left = self._end - snapshot.step
        self._n_failures = 0
        return snapshot

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


def origin_of(origin: Start | Snapshot | bytes) -> Start | bytes:
    """Return what a request holds: a start, or the checkpoint of a snapshot."""
    return origin.checkpoint if isinstance(origin, Snapshot) else origin


def model_of(origin: Start | bytes) -> str | None:
    """Return the name of the model that made a checkpoint; None of a start."""
    return Checkpoint.from_bytes(origin).model if isinstance(origin, bytes) else None


def step_of(origin: Start | bytes) -> int:
    """Return how many inner steps were taken to get there."""
    return Checkpoint.from_bytes(origin).step if isinstance(origin, bytes) else 0


def ended() -> UnavailableError:
    """Return the error of a stream that ended too early."""
    return UnavailableError("the service ended the stream before the last snapshot")
