"""Runs: systems that an engine moves by itself, and their updates and credit."""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from twinforce_dynamics.codec.checkpoint import CheckpointSummary
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import ServiceError
from twinforce_proto.headers import NORMAL_URGENCY
from twinforce_service.callers.caller import UNKNOWN, Caller
from twinforce_service.scheduling.request import Walker

# A state of a propagation, or the progress of a relaxation.
Update: TypeAlias = Snapshot | Relaxed
# Adds to the number of updates that a run may send.
Credit: TypeAlias = Callable[[int], None]


@dataclass(slots=True, eq=False)
class Run:
    """A system that an engine moves by itself, and the client that receives its updates.

    Attributes:
        request: Request for a propagation or a relaxation.
        on_update: Called with each update and a bool, True for the last one, in a thread of the
            engine.
        credit: Number of updates that may be sent before more credit is added. Nothing is computed
            beyond, so that a client that does not read delays nobody and fills no memory.
        deadline: When the client stops waiting, on the clock of `time.monotonic`, in s.
        request_id: Name of the run in the logs.
        walker: Walker whose steps these are.
        urgency: Urgency of each evaluation, from 0, the most urgent, to 7.
        caller: Caller whose share of the device the evaluations take.
        connection: Connection that the request came over, which has a part of this share.
        is_suspect: True if an engine crashed on it, so that its evaluations share no batch.
        trace: Span of the call, in the form of W3C Trace Context; empty unless it is recorded.
        number: Number of the run between two processes.
        n_atoms: Number of atoms.
        future: Completes with None after the last update, or with a `ServiceError`. Cancel it when
            the client has gone.

    Raises:
        InvalidRequestError: The bytes to continue from are not a checkpoint.
    """

    request: PropagateRequest | RelaxRequest
    on_update: Callable[[Update, bool], None]
    credit: int
    deadline: float | None = None
    request_id: str = ""
    walker: Walker = field(default_factory=Walker)
    urgency: int = NORMAL_URGENCY
    caller: Caller = UNKNOWN
    connection: str = ""
    is_suspect: bool = False
    trace: str = ""
    number: int = -1
    n_atoms: int = field(init=False)
    future: "Future[None]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        _, self.n_atoms = origin_of(self.request)

    def emit(self, update: Update, *, is_last: bool) -> None:
        """Send an update, unless the run is over; the last update completes the run."""
        if self.future.done():
            return
        self.on_update(update, is_last)
        if is_last:
            with suppress(InvalidStateError):
                self.future.set_result(None)

    def fail(self, error: ServiceError) -> None:
        """End the run with this error, unless it is over."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


def origin_of(request: PropagateRequest | RelaxRequest) -> tuple[int, int]:
    """Return the step at which a run begins, and the number of atoms."""
    if isinstance(request, RelaxRequest):
        return 0, len(request.system)
    origin = request.origin
    if isinstance(origin, bytes):
        summary = CheckpointSummary.from_bytes(origin)
        return summary.step, summary.n_atoms
    return 0, len(origin.system)
