"""Requests that wait for a device, and limits on how many may wait."""

from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from twinforce_proto import (
    STRESSES,
    InvalidRequestError,
    OverloadedError,
    Provenance,
    ServiceError,
    System,
    SystemTooLargeError,
    Timings,
    needs_autograd,
)
from twinforce_proto.headers import NORMAL_URGENCY
from twinforce_service.callers.caller import UNKNOWN, Caller

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Walker:
    """A client in closed loop; if there are several devices, one serves all its requests.

    Attributes:
        id: Identifier, unique across processes.
    """

    id: str = field(default_factory=lambda: uuid4().hex)

    def __hash__(self) -> int:
        return hash(self.id)  # without the tuple that a dataclass would make each time


@dataclass(slots=True, eq=False)
class Request(Generic[_Answer]):
    """A system that waits for its answer, which is a prediction except in subclasses.

    Attributes:
        model: Name of the model.
        system: System to evaluate.
        outputs: Outputs to evaluate, names of `twinforce_proto.OUTPUTS`.
        deadline: Time after which the answer is useless, on the clock of `time.monotonic`, in s.
        system_index: Index of the system in the request of the client; errors name it.
        request_id: Identifier of the request in the logs.
        walker: Walker that takes this step, if any.
        urgency: From 0, the most urgent, to 7.
        caller: Caller whose share of the device the evaluation takes.
        connection: Connection that the request came over, which has a part of this share.
        n_pairs: Number of neighbor pairs that the system adds to a batch; set on admission.
        is_suspect: True if an engine crashed on it, so that it shares no batch.
        number: Number of the request, or of its run, between two processes.
        submitted_at: Time of admission, on the same clock as `deadline`.
        charged: Device time that its caller was charged in advance, in s.
        trace: Span of the call, in the form of W3C Trace Context; empty unless it is recorded.
        n_atoms: Number of atoms that the system adds to a batch.
        future: Receives the answer or a `ServiceError`; cancel it to abandon the request. It may be
            a `Reply` if no thread blocks on it.
    """

    model: str
    system: System
    outputs: frozenset[str]
    deadline: float | None = None
    system_index: int | None = None
    request_id: str = ""
    walker: "Walker | None" = None
    urgency: int = NORMAL_URGENCY
    caller: Caller = UNKNOWN
    connection: str = ""
    n_pairs: int = 0
    is_suspect: bool = False
    number: int = -1
    submitted_at: float = 0.0
    charged: float = 0.0
    trace: str = ""
    n_atoms: int = field(init=False)
    future: Future[_Answer] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.n_atoms = len(self.system.atomic_numbers)

    @property
    def kind(self) -> Hashable:
        """Key that is equal for requests whose evaluation takes the same steps."""
        return _kind(self.model, self.outputs)

    @property
    def group(self) -> Hashable:
        """Key that is equal for requests that may share a batch."""
        return self if self.is_suspect else self.kind

    def complete(self, answer: _Answer) -> None:
        """Set the answer, unless the request was abandoned meanwhile."""
        try:
            self.future.set_result(answer)
        except InvalidStateError:
            return

    def fail(self, error: ServiceError) -> None:
        """Set the error in place of an answer, unless the request was abandoned meanwhile."""
        try:
            self.future.set_exception(error.at(self.system_index))
        except InvalidStateError:
            return

    def is_expired(self, now: float) -> bool:
        """Return True if the deadline has passed."""
        return self.deadline is not None and self.deadline <= now


@lru_cache(maxsize=1000)
def _kind(model: str, outputs: frozenset[str]) -> Hashable:
    return model, needs_autograd(outputs), not STRESSES.isdisjoint(outputs)


@dataclass(frozen=True, slots=True, eq=False)
class JacobianRows:
    """Some rows of the Jacobian of the forces of one system.

    Attributes:
        values: Shape [n_rows, 3 n_atoms], in eV/Å².
        provenance: Model and service that computed the rows.
        timings: Time in the queue and on the device.
    """

    values: NDArray[np.float64]
    provenance: Provenance | None = None
    timings: Timings | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class JacobianRequest(Request[JacobianRows]):
    """A system that waits for some rows of a Jacobian, evaluated in a batch by itself.

    Attributes:
        rows: Components of the forces, which are the only output.
    """

    rows: range

    @property
    def group(self) -> Hashable:
        """The request itself, as it shares no batch."""
        return self


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the size of the queue and of batches.

    Attributes:
        max_batch_atoms: Atoms in a batch, unless a single system has more.
        max_batch_pairs: Neighbor pairs in a batch, unless a single system has more.
        max_atoms_per_system: Atoms in one system.
        max_pairs_per_system: Neighbor pairs of one system.
        max_waiting: Requests in the queue, and systems in one request of a client.
        max_waiting_atoms: Atoms in the queue, unless a single request of a client has more.
        max_batch_time: Seconds that a batch should take, unless a single system takes longer, or
            the fixed time of a batch would be a large part of it.
        max_hold: Seconds that a batch may wait for walkers that are about to return; 0 turns this
            off.
    """

    max_batch_atoms: int = 20_000
    max_batch_pairs: int = 2_000_000
    max_atoms_per_system: int = 20_000
    max_pairs_per_system: int = 2_000_000
    max_waiting: int = 4096
    max_waiting_atoms: int = 2_000_000
    max_batch_time: float = 0.05
    max_hold: float = 0.05


def check_sizes(requests: Sequence[Request[Any]], limits: Limits) -> None:
    """Refuse requests that would not fit into an empty queue.

    Raises:
        SystemTooLargeError: A system has too many atoms.
        InvalidRequestError: There are too many systems in one request.
    """
    limit = limits.max_atoms_per_system
    for request in requests:
        if request.n_atoms > limit:
            message = f"expected at most {limit} atoms, got {request.n_atoms}"
            raise SystemTooLargeError(message, system_index=request.system_index)
    if len(requests) > limits.max_waiting:
        expected = f"at most {limits.max_waiting} in one call"
        raise InvalidRequestError.expected("systems", expected, len(requests))


def overloaded(n_requests: int, n_atoms: int, retry_after: float) -> OverloadedError:
    """Return the error for requests that do not fit into the queue."""
    message = f"{n_requests} systems of {n_atoms} atoms are already waiting; try again later"
    return OverloadedError(message, retry_after=retry_after)
