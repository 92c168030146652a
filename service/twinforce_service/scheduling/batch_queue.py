"""A queue that forms batches of requests; it uses no threads, no clock and no I/O."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from twinforce_proto.headers import NORMAL_URGENCY
from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.request import Limits, Request, has_room, overloaded

# Seconds after which a request without a deadline is due; earlier deadlines go first.
_PATIENCE = 1.0
# A level of urgency counts as this many seconds of waiting, so that no request waits forever.
_LEVEL = 60.0
# Systems larger than this fraction of a batch do not share a lane with small ones.
_BIG = 0.25


@dataclass(frozen=True, slots=True)
class Taken:
    """Requests taken from the queue: a batch to evaluate, and those whose deadline has passed."""

    batch: list[Request[Any]]
    expired: list[Request[Any]]


@dataclass(slots=True)
class _Lane:
    """A heap of requests that may share a batch; the one that is due first is at the top."""

    share: Hashable
    entries: list[tuple[float, int, Request[Any]]] = field(default_factory=list)


class BatchQueue:
    """A queue that forms batches of bounded size and shares device time fairly.

    Requests share a batch if they are for the same model, if all or none of them need autograd, so
    that a direct prediction never pays for the gradient of another, and if all or none of them ask
    for a stress, which only systems with a volume have. Among them, the request that is due first
    goes first: it is due at its deadline or one second after it came. A request that is one level
    more urgent goes before those that have not waited a minute longer.

    Each model has three shares of the device: its small systems, its big ones, and the rows of
    Jacobians. The next batch comes from the share that has used the least device time (start-time
    fair queueing; Goyal, Vin and Cheng, IEEE/ACM Trans. Netw. 5, 690, 1997). So expensive requests
    delay others by at most one batch, and an idle share does not save up time.

    Args:
        limits: Limits on the size of the queue.
        budgets: Limits on the size of a batch; None means those in `limits`.
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
        """Number of requests and atoms added by `extend`, minus those that wait.

        A caller that counts its requests can derive how many of them wait, including those that
        were put back.
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
            requests: Requests that passed `check_sizes`, in the order of evaluation.
            now: Current time, in s.
            retry_after: Seconds after which `OverloadedError` advises to try again.

        Raises:
            OverloadedError: Too many requests are already waiting.
        """
        self.check_room(requests, retry_after)
        for request in requests:
            request.submitted_at = now
            self._append(request)

    def check_room(self, requests: Sequence[Request[Any]], retry_after: float = 1.0) -> None:
        """Refuse requests that do not fit into the queue.

        Raises:
            OverloadedError: Too many requests are already waiting; try again after `retry_after` s.
        """
        if not has_room(requests, self.n_requests, self.n_atoms, self._limits):
            self.drop_cancelled()
        if not has_room(requests, self.n_requests, self.n_atoms, self._limits):
            raise overloaded(self.n_requests, self.n_atoms, retry_after)

    def put_back(self, requests: Sequence[Request[Any]], now: float) -> None:
        """Add the next requests of runs that were admitted before; they are never refused."""
        self._n_put_back += len(requests)
        self._n_atoms_put_back += sum(request.n_atoms for request in requests)
        for request in requests:
            request.submitted_at = now
            self._append(request)

    def next_batch(self, now: float) -> Taken:
        """Remove and return requests that fit into one batch, those that are due first.

        Requests whose future was canceled are dropped; those whose deadline has passed are
        returned separately. A system larger than a whole batch is returned alone. The futures of
        all returned requests are running: they can no longer be canceled and must be completed.
        """
        batch: list[Request[Any]] = []
        expired: list[Request[Any]] = []
        while self._lanes and not batch:
            self._take_from(min(self._lanes, key=self._turn), now, batch, expired)
        return Taken(batch, expired)

    def charge(self, request: Request[Any], seconds: float) -> None:
        """Charge the device time of a batch to the share of this request."""
        share = self._share(request)
        self._used[share] = self._used.get(share, 0.0) + seconds

    @property
    def n_groups(self) -> int:
        """Number of groups of waiting requests that cannot share a batch."""
        return len(self._lanes)

    def peek(self) -> list[Request[Any]]:
        """Return about the next batch without removing it.

        The list is empty while requests that cannot share a batch wait: the device is busy then.
        """
        if len(self._lanes) != 1:
            return []
        (lane,) = self._lanes.values()
        return [request for _, _, request in lane.entries]

    def clear(self) -> list[Request[Any]]:
        """Remove and return all requests that were not canceled, oldest first."""
        entries = sorted((e for lane in self._lanes.values() for e in lane.entries), key=_number)
        self._lanes.clear()
        self.n_requests = self.n_atoms = 0
        return [r for _, _, r in entries if r.future.set_running_or_notify_cancel()]

    def drop_cancelled(self) -> None:
        """Remove canceled requests now instead of when their turn comes."""
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
        """Return a sort key that is smallest for the lane whose turn it is."""
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
