"""Which waiting requests are evaluated together, and which first.  No threads, no clock, no I/O."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from twinforce_proto.headers import NORMAL_URGENCY
from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.request import Limits, Request, check_sizes, has_room, overloaded

# Who has no deadline is due after so many s: until then, earlier deadlines go first.
_PATIENCE = 1.0
# A level of urgency is worth having waited so many s longer, so that nobody waits for ever.
_LEVEL = 60.0
# Systems with more than this share of what fits in a batch do not wait beside small ones.
_BIG = 0.25


@dataclass(frozen=True, slots=True)
class Taken:
    """What left the queue: requests to evaluate together, and those that waited too long."""

    batch: list[Request[Any]]
    expired: list[Request[Any]]


@dataclass(slots=True)
class _Lane:
    """Requests that may share a batch, the one that is due first at the top of a heap."""

    share: Hashable
    entries: list[tuple[float, int, Request[Any]]] = field(default_factory=list)


class BatchQueue:
    """A queue that hands out batches of bounded size, and device time in equal shares.

    Requests share a batch when they ask the same model, all or none of them need autograd, so
    that a direct prediction never pays for a neighbor's gradient, and all or none of them ask
    for a stress, which only periodic systems have. Among them, the one that is due first goes
    first: at its deadline or a second after it came. Who is a level more urgent goes before all
    that have not waited a minute longer.

    What has a share of the device is a model, and of each model the small systems, the big ones
    and the rows of Jacobians. The batch taken is one of the share that has had least device time
    (start-time fair queueing; Goyal, Vin and Cheng, IEEE/ACM Trans. Netw. 5, 690, 1997): what costs
    much holds up nobody for longer than one batch, and time that was not wanted is not saved up.

    Args:
        limits: How much may wait.
        budgets: How much goes into a batch; None: what the limits say.
    """

    def __init__(self, limits: Limits, budgets: Budgets | None = None) -> None:
        self._limits = limits
        self._budgets = budgets or Budgets(limits)
        self._lanes: dict[Hashable, _Lane] = {}
        self._used: dict[Hashable, float] = {}
        self._virtual_time = 0.0
        self._n_admitted = 0
        self._n_atoms_admitted = 0
        self._n_put_back = 0
        self._n_atoms_put_back = 0
        self.n_requests = 0
        self.n_atoms = 0

    @property
    def n_left(self) -> tuple[int, int]:
        """How many requests and atoms were added by `extend`, less those that wait.

        So who counts what it has added knows what waits, put back or not.
        """
        return (
            self._n_admitted - self._n_put_back - self.n_requests,
            self._n_atoms_admitted - self._n_atoms_put_back - self.n_atoms,
        )

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
        self.check_room(requests, retry_after)
        for request in requests:
            request.submitted_at = now
            self._append(request)

    def check_room(self, requests: Sequence[Request[Any]], retry_after: float = 1.0) -> None:
        """Refuse requests that there is no room for.

        Raises:
            OverloadedError: Too many are waiting already; it advises `retry_after`, in s.
        """
        if not has_room(requests, self.n_requests, self.n_atoms, self._limits):
            self.drop_cancelled()
        if not has_room(requests, self.n_requests, self.n_atoms, self._limits):
            raise overloaded(self.n_requests, self.n_atoms, retry_after)

    def put_back(self, requests: Sequence[Request[Any]], now: float) -> None:
        """Add the next requests of who was admitted already: they are never refused."""
        self._n_put_back += len(requests)
        self._n_atoms_put_back += sum(request.n_atoms for request in requests)
        for request in requests:
            request.submitted_at = now
            self._append(request)

    def next_batch(self, now: float) -> Taken:
        """Remove and return requests that fit in one batch, the ones that are due first.

        A request whose future was cancelled is dropped; one whose deadline has passed is
        returned apart. A system larger than a whole batch is returned alone. The futures of all
        returned requests are running, so they can no longer be cancelled and must be completed.
        """
        batch: list[Request[Any]] = []
        expired: list[Request[Any]] = []
        while self._lanes and not batch:
            self._take_from(min(self._lanes, key=self._turn), now, batch, expired)
        return Taken(batch, expired)

    def charge(self, request: Request[Any], seconds: float) -> None:
        """Note that the device was taken for so long by a batch with this request."""
        share = self._share(request)
        self._used[share] = self._used.get(share, 0.0) + seconds

    @property
    def n_groups(self) -> int:
        """How many kinds of requests wait that share no batch."""
        return len(self._lanes)

    def peek(self) -> list[Request[Any]]:
        """Return about what the next batch will be, and leave it where it is.

        Nothing while several models or kinds of requests wait: the device has enough to do.
        """
        if len(self._lanes) != 1:
            return []
        (lane,) = self._lanes.values()
        return [request for _, _, request in lane.entries]

    def clear(self) -> list[Request[Any]]:
        """Remove and return everything that still waits to be answered, oldest first."""
        entries = sorted((e for lane in self._lanes.values() for e in lane.entries), key=_number)
        self._lanes.clear()
        self.n_requests = self.n_atoms = 0
        return [r for _, _, r in entries if r.future.set_running_or_notify_cancel()]

    def drop_cancelled(self) -> None:
        """Remove what nobody waits for any more; otherwise it leaves when its turn comes."""
        for key, lane in list(self._lanes.items()):
            lane.entries = [each for each in lane.entries if not each[2].future.cancelled()]
            heapify(lane.entries)
            if not lane.entries:
                del self._lanes[key]
        waiting = [request for lane in self._lanes.values() for _, _, request in lane.entries]
        self.n_requests = len(waiting)
        self.n_atoms = sum(request.n_atoms for request in waiting)

    def _append(self, request: Request[Any]) -> None:
        share = self._share(request)
        key = request.group, share
        if (lane := self._lanes.get(key)) is None:
            lane = self._lanes[key] = _Lane(share)
            self._used[share] = max(self._used.get(share, 0.0), self._virtual_time)
        deadline = inf if request.deadline is None else request.deadline
        due = min(deadline, request.submitted_at + _PATIENCE)
        due += _LEVEL * (request.urgency - NORMAL_URGENCY)
        heappush(lane.entries, (due, self._n_admitted, request))
        self._n_admitted += 1
        self._n_atoms_admitted += request.n_atoms
        self.n_requests += 1
        self.n_atoms += request.n_atoms

    def _share(self, request: Request[Any]) -> Hashable:
        limits = self._limits
        is_big = (
            request.n_atoms > _BIG * limits.max_batch_atoms
            or request.n_pairs > _BIG * limits.max_batch_pairs
        )
        return request.model, type(request), is_big

    def _turn(self, key: Hashable) -> tuple[float, float, int]:
        """Return what is least for the lane whose turn it is."""
        lane = self._lanes[key]
        due, number, _ = lane.entries[0]
        return self._used[lane.share], due, number

    def _take_from(
        self, key: Hashable, now: float, batch: list[Request[Any]], expired: list[Request[Any]]
    ) -> None:
        lane = self._lanes[key]
        n_atoms = n_pairs = 0
        self._virtual_time = max(self._virtual_time, self._used[lane.share])
        while lane.entries:
            request = lane.entries[0][2]
            is_alive = not (request.future.cancelled() or request.is_expired(now))
            if (
                is_alive
                and batch
                and not self._budgets.fits(
                    request, n_atoms + request.n_atoms, n_pairs + request.n_pairs
                )
            ):
                return
            heappop(lane.entries)
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
        del self._lanes[key]


def _number(entry: tuple[float, int, Request[Any]]) -> int:
    return entry[1]
