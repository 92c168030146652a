"""Which waiting requests are evaluated together.  No threads, no clock, no I/O."""

from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
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

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Walker:
    """One closed-loop caller; where there are several devices, all its requests go to one.

    Attributes:
        id: Its own, in any process.
        keeps_lists: Whether its neighbor list is kept from step to step. The order of pairs, and so
            the last digits, then depend on its earlier steps.
    """

    id: str = field(default_factory=lambda: uuid4().hex)
    keeps_lists: bool = True


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
        n_pairs: How many neighbor pairs it adds to a batch; filled in on admission.
        submitted_at: When it was admitted, on the same clock as `deadline`.
        future: Gets the answer or a `ServiceError`; cancel it when nobody waits any more.
    """

    model: str
    system: System
    outputs: frozenset[str]
    deadline: float | None = None
    system_index: int | None = None
    request_id: str = ""
    walker: "Walker | None" = None
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


@dataclass(frozen=True, slots=True)
class Taken:
    """What left the queue: requests to evaluate together, and those that waited too long."""

    batch: list[Request[Any]]
    expired: list[Request[Any]]


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


def has_room(
    requests: Sequence[Request[Any]], n_requests: int, n_atoms: int, limits: Limits
) -> bool:
    """Tell whether requests may wait beside those that do: of this number, with these atoms."""
    return not n_requests or (
        n_requests + len(requests) <= limits.max_waiting
        and n_atoms + sum(each.n_atoms for each in requests) <= limits.max_waiting_atoms
    )


def overloaded(n_requests: int, n_atoms: int, retry_after: float) -> OverloadedError:
    """Return the error of requests that there is no room for."""
    message = f"{n_requests} systems of {n_atoms} atoms are already waiting; try again later"
    return OverloadedError(message, retry_after=retry_after)


class BatchQueue:
    """A first-in, first-out queue that hands out batches of bounded size.

    Requests share a batch when they ask the same model, all or none of them need autograd, so
    that a direct prediction never pays for a neighbor's gradient, and all or none of them ask
    for a stress, which only periodic systems have. The batch taken is the one of the request that
    has waited longest, whichever model it asks, so no model starves another.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._groups: dict[Hashable, deque[tuple[int, Request[Any]]]] = {}
        self._n_admitted = 0
        self._n_atoms_admitted = 0
        self.n_requests = 0
        self.n_atoms = 0

    @property
    def n_left(self) -> tuple[int, int]:
        """How many requests have left the queue since it was made, and how many atoms they had."""
        return self._n_admitted - self.n_requests, self._n_atoms_admitted - self.n_atoms

    def __len__(self) -> int:
        return self.n_requests

    def extend(
        self, requests: Sequence[Request[Any]], now: float, retry_after: float = 1.0
    ) -> None:
        """Add all of the requests, or none.

        Args:
            requests: In the order in which they are to be evaluated.
            now: The time, in s.
            retry_after: What `OverloadedError` advises, in s.

        Raises:
            SystemTooLargeError: A system has more atoms than are ever evaluated.
            InvalidRequestError: There are more requests than may ever wait.
            OverloadedError: Too many are waiting already.
        """
        check_sizes(requests, self._limits)
        if not has_room(requests, self.n_requests, self.n_atoms, self._limits):
            self.drop_cancelled()
        if not has_room(requests, self.n_requests, self.n_atoms, self._limits):
            raise overloaded(self.n_requests, self.n_atoms, retry_after)
        for request in requests:
            request.submitted_at = now
            self._append(request)

    def next_batch(self, now: float) -> Taken:
        """Remove and return the oldest requests that fit in one batch.

        A request whose future was cancelled is dropped; one whose deadline has passed is
        returned apart. A system larger than a whole batch is returned alone. The futures of all
        returned requests are running, so they can no longer be cancelled and must be completed.
        """
        batch: list[Request[Any]] = []
        expired: list[Request[Any]] = []
        while not batch and (group := self._oldest_group()) is not None:
            self._take_from(group, now, batch, expired)
        return Taken(batch, expired)

    @property
    def n_groups(self) -> int:
        """How many kinds of requests wait that share no batch."""
        return len(self._groups)

    def peek(self) -> list[Request[Any]]:
        """Return about what the next batch will be, and leave it where it is.

        Nothing while several models or kinds of requests wait: the device has enough to do.
        """
        return [r for _, r in next(iter(self._groups.values()))] if len(self._groups) == 1 else []

    def clear(self) -> list[Request[Any]]:
        """Remove and return everything that still waits to be answered, oldest first."""
        entries = sorted((e for group in self._groups.values() for e in group), key=lambda e: e[0])
        self._groups.clear()
        self.n_requests = self.n_atoms = 0
        return [r for _, r in entries if r.future.set_running_or_notify_cancel()]

    def _append(self, request: Request[Any]) -> None:
        self._groups.setdefault(request.group, deque()).append((self._n_admitted, request))
        self._n_admitted += 1
        self._n_atoms_admitted += request.n_atoms
        self.n_requests += 1
        self.n_atoms += request.n_atoms

    def drop_cancelled(self) -> None:
        """Remove what nobody waits for any more; otherwise it leaves when its turn comes."""
        for key, group in list(self._groups.items()):
            kept = deque(entry for entry in group if not entry[1].future.cancelled())
            self._groups[key] = kept
            if not kept:
                del self._groups[key]
        waiting = [request for group in self._groups.values() for _, request in group]
        self.n_requests = len(waiting)
        self.n_atoms = sum(request.n_atoms for request in waiting)

    def _oldest_group(self) -> Hashable | None:
        return min(self._groups, key=lambda key: self._groups[key][0][0], default=None)

    def _take_from(
        self, key: Hashable, now: float, batch: list[Request[Any]], expired: list[Request[Any]]
    ) -> None:
        group = self._groups[key]
        n_atoms = n_pairs = 0
        while group:
            request = group[0][1]
            is_alive = not (request.future.cancelled() or request.is_expired(now))
            if is_alive and batch and not self._fits(n_atoms, n_pairs, request):
                return
            group.popleft()
            self.n_requests -= 1
            self.n_atoms -= request.n_atoms
            if not request.future.set_running_or_notify_cancel():
                continue
            if request.is_expired(now):
                expired.append(request)
            else:
                batch.append(request)
                n_atoms += request.n_atoms
                n_pairs += request.n_pairs
        del self._groups[key]

    def _fits(self, n_atoms: int, n_pairs: int, request: Request[Any]) -> bool:
        return (
            n_atoms + request.n_atoms <= self._limits.max_batch_atoms
            and n_pairs + request.n_pairs <= self._limits.max_batch_pairs
        )
