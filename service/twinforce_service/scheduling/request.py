"""What waits for the device, and how much of it may.  No threads, no clock, no I/O."""

from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
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

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Walker:
    """One closed-loop caller; where there are several devices, all its requests go to one.

    Attributes:
        id: Its own, in any process.
    """

    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(slots=True, eq=False)
class Request(Generic[_Answer]):
    """A system waiting for its answer: a prediction, unless it says otherwise.

    Attributes:
        model: The name of the model asked for.
        outputs: What is asked of it, names of `twinforce_proto.OUTPUTS`.
        deadline: When nobody waits any longer, on the clock of `time.monotonic`, in s.
        system_index: The position of the system in its caller's list; errors name it.
        request_id: What the logs call it.
        walker: Whose step it is, where it is one.
        urgency: From 0, the most urgent, to 7.
        n_pairs: How many neighbor pairs it adds to a batch; filled in on admission.
        submitted_at: When it was admitted, on the same clock as `deadline`.
        future: Gets the answer or a `ServiceError`; cancel it when nobody waits any more. A `Reply`
            where nobody will block on it.
    """

    model: str
    system: System
    outputs: frozenset[str]
    deadline: float | None = None
    system_index: int | None = None
    request_id: str = ""
    walker: "Walker | None" = None
    urgency: int = NORMAL_URGENCY
    n_pairs: int = 0
    submitted_at: float = 0.0
    future: Future[_Answer] = field(default_factory=Future)

    @property
    def n_atoms(self) -> int:
        """How many atoms it adds to a batch."""
        return len(self.system)

    @property
    def group(self) -> Hashable:
        """What it has in common with those that may share its batch."""
        has_stress = not STRESSES.isdisjoint(self.outputs)
        return self.model, needs_autograd(self.outputs), has_stress

    def complete(self, answer: _Answer) -> None:
        """Give the answer, unless it was abandoned meanwhile."""
        with suppress(InvalidStateError):
            self.future.set_result(answer)

    def fail(self, error: ServiceError) -> None:
        """Give the error instead of an answer, unless it was abandoned meanwhile."""
        with suppress(InvalidStateError):
            self.future.set_exception(located(error, self))

    def is_expired(self, now: float) -> bool:
        """Tell whether its deadline has passed."""
        return self.deadline is not None and self.deadline <= now


@dataclass(frozen=True, slots=True, eq=False)
class JacobianRows:
    """Some rows of the Jacobian of the forces of one system.

    Attributes:
        values: Shape [n_rows, 3 n_atoms], in eV/Å².
        provenance: What made them.
        timings: Where the time went.
    """

    values: NDArray[np.float64]
    provenance: Provenance | None = None
    timings: Timings | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class JacobianRequest(Request[JacobianRows]):
    """A system waiting for some rows of a Jacobian, never in a batch with others.

    Attributes:
        rows: Components of the forces that are its only output.
    """

    rows: range

    @property
    def group(self) -> Hashable:
        """Its own."""
        return self


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may wait, and how much is evaluated at once.

    Attributes:
        max_batch_atoms: Atoms in a batch, unless one system alone has more.
        max_batch_pairs: Neighbor pairs in a batch, unless one system alone has more.
        max_atoms_per_system: Atoms in one system.
        max_pairs_per_system: Neighbor pairs of one system.
        max_waiting: Requests that wait, and systems in one call.
        max_waiting_atoms: Atoms of the requests that wait, unless one call alone has more.
        max_hold: How long a batch may wait for walkers that are about to return, in s; 0: not at
            all.
    """

    max_batch_atoms: int = 20_000
    max_batch_pairs: int = 2_000_000
    max_atoms_per_system: int = 20_000
    max_pairs_per_system: int = 2_000_000
    max_waiting: int = 4096
    max_waiting_atoms: int = 2_000_000
    max_hold: float = 0.05


def located(error: ServiceError, request: Request[Any]) -> ServiceError:
    """Return a copy of the error, said of the place the request has in its caller's list."""
    moved = copy(error)
    moved.system_index = request.system_index
    return moved


def check_sizes(requests: Sequence[Request[Any]], limits: Limits) -> None:
    """Refuse what could not wait even in an empty queue.

    Raises:
        SystemTooLargeError: A system has more atoms than are ever evaluated.
        InvalidRequestError: There are more requests than may ever wait.
    """
    limit = limits.max_atoms_per_system
    for request in requests:
        if request.n_atoms > limit:
            message = f"expected at most {limit} atoms, got {request.n_atoms}"
            raise located(SystemTooLargeError(message), request)
    if len(requests) > limits.max_waiting:
        raise InvalidRequestError(
            f"systems: expected at most {limits.max_waiting} in one call, got {len(requests)}",
            field="systems",
        )


class Sized(Protocol):
    """What has atoms: a request, or something else that is going to make some."""

    @property
    def n_atoms(self) -> int:
        """How many."""


def has_room(requests: Sequence[Sized], n_requests: int, n_atoms: int, limits: Limits) -> bool:
    """Tell whether requests may wait beside those that do: of this number, with these atoms."""
    return not n_requests or (
        n_requests + len(requests) <= limits.max_waiting
        and n_atoms + sum([each.n_atoms for each in requests]) <= limits.max_waiting_atoms
    )


def overloaded(n_requests: int, n_atoms: int, retry_after: float) -> OverloadedError:
    """Return the error of requests that there is no room for."""
    message = f"{n_requests} systems of {n_atoms} atoms are already waiting; try again later"
    return OverloadedError(message, retry_after=retry_after)
