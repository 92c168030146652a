"""A queue that forms batches of requests; it uses no threads, no clock and no I/O."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from twinforce_service.scheduling.accounts import Account, Accounts
from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.lanes import Entry, Head, Lane, delay_of
from twinforce_service.scheduling.places import QueuePlaces
from twinforce_service.scheduling.request import Limits, Request, overloaded

# Systems larger than this fraction of a batch do not share a lane with small ones.
_BIG = 0.25


@dataclass(frozen=True, slots=True)
class Taken:
    """Requests taken from the queue: a batch to evaluate, and those whose deadline has passed."""

    batch: list[Request[Any]]
    expired: list[Request[Any]]


class BatchQueue:
    """A queue that forms batches of bounded size and shares device time fairly.

    Requests share a batch if they are for the same model, if all or none of them need autograd, so
    that a direct prediction never pays for the gradient of another, and if all or none of them ask
    for a stress, which only systems with a volume have.

    Turns are given by device time (`accounts`). The next turn belongs to the caller that has used
    the least for its share, and of its connections to the one that has used the least; so a caller
    delays others by at most the batch that runs. Among the requests of a connection, the models
    have equal shares of the device: each has one for its small systems, one for its big ones and
    one for the rows of Jacobians. Inside these, the request that is due first is first: it is due
    at its deadline or one second after it came. A request that is one level more urgent goes before
    those that have not waited a minute longer. A batch is filled with the requests that come next
    and may share it, whoever sent them.

    Args:
        limits: Limits on the size of the queue.
        budgets: Limits on the size of a batch; None means those in `limits`.
    """

    def __init__(self, limits: Limits, budgets: Budgets | None = None) -> None:
        self._limits = limits
        self._budgets = budgets or Budgets(limits)
        self._costs = self._budgets.costs
        self._lanes: dict[tuple[Hashable, Hashable], Lane] = {}
        self._callers = Accounts()
        self._places = QueuePlaces()
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
        """Refuse requests that do not fit into the queue; they are of one caller.

        Raises:
            OverloadedError: Too many requests are already waiting; try again after `retry_after` s.
        """
        may_enter = self._places.may_enter
        if not may_enter(requests, self.n_requests, self.n_atoms, self._limits):
            self.drop_cancelled()
        if not may_enter(requests, self.n_requests, self.n_atoms, self._limits):
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

    def charge(self, batch: Sequence[Request[Any]], seconds: float) -> list[float]:
        """Charge the device time of a batch, of which callers were charged an estimate before.

        Returns:
            Time of each request, in s.
        """
        share = self._share(batch[0])
        self._used[share] = self._used.get(share, 0.0) + seconds
        parts = self._costs.split(batch, seconds)
        for request, part in zip(batch, parts, strict=True):
            if (caller := self._callers.get(request.caller.name, delay_of(request))) is not None:
                self._charge(request, part, caller, caller.parts.get(request.connection))
        return parts

    @property
    def n_groups(self) -> int:
        """Number of groups of waiting requests that cannot share a batch."""
        return len(self._lanes)

    def peek(self) -> list[Request[Any]]:
        """Return the next batch without removing it.

        The list is empty while requests that cannot share a batch wait: the device is busy then.
        """
        if len(self._lanes) != 1:
            return []
        (lane,) = self._lanes.values()
        if not self._budgets.fits(lane.head().entry.request, lane.n_atoms, lane.n_pairs):
            return []
        return [entry.request for entry in lane]

    def clear(self) -> list[Request[Any]]:
        """Remove and return all requests that were not canceled, oldest first."""
        entries = self._remove_all()
        return [r for _, _, r in entries if r.future.set_running_or_notify_cancel()]

    def drop_cancelled(self) -> None:
        """Remove canceled requests now instead of when their turn comes."""
        for entry in self._remove_all():
            if not entry.request.future.cancelled():
                self._push(entry)

    def _remove_all(self) -> list[Entry]:
        """Remove and return all entries, oldest first."""
        entries = sorted((e for lane in self._lanes.values() for e in lane), key=_number)
        for lane in self._lanes.values():
            while lane.n_requests:
                self._pop(lane, lane.head())
        self._lanes.clear()
        return entries

    def _append(self, request: Request[Any]) -> None:
        self._push(Entry.of(request, self._n_admitted))
        self._n_admitted += 1
        self._n_atoms_admitted += request.n_atoms

    def _push(self, entry: Entry) -> None:
        request = entry.request
        share = self._share(request)
        key = request.group, share
        if (lane := self._lanes.get(key)) is None:
            lane = self._lanes[key] = Lane()
            self._used[share] = max(self._used.get(share, 0.0), self._virtual_time)
        caller = self._callers.enter(request.caller.name, request.caller.share, delay_of(request))
        lane.push(caller, caller.parts.enter(request.connection), entry)
        self._places.enter(request)
        self.n_requests += 1
        self.n_atoms += request.n_atoms

    def _pop(self, lane: Lane, head: Head) -> None:
        lane.pop()
        self._places.leave(head.entry.request)
        head.caller.n_waiting -= 1
        head.connection.n_waiting -= 1
        self.n_requests -= 1
        self.n_atoms -= head.entry.request.n_atoms

    def _share(self, request: Request[Any]) -> Hashable:
        limits = self._limits
        is_big = (
            request.n_atoms > _BIG * limits.max_batch_atoms
            or request.n_pairs > _BIG * limits.max_batch_pairs
        )
        return request.model, type(request), is_big

    def _turn(self, key: tuple[Hashable, Hashable]) -> tuple[float, ...]:
        """Return a sort key that is smallest for the lane whose turn it is."""
        (due, number, _), caller, connection = self._lanes[key].head()
        return caller.turn, connection.turn, self._used[key[1]], due, number

    def _take_from(
        self,
        key: tuple[Hashable, Hashable],
        now: float,
        batch: list[Request[Any]],
        expired: list[Request[Any]],
    ) -> None:
        lane = self._lanes[key]
        n_atoms = n_pairs = 0
        self._virtual_time = max(self._virtual_time, self._used[key[1]])
        while lane.n_requests:
            head = lane.head()
            request = head.entry.request
            is_alive = not (request.future.cancelled() or request.is_expired(now))
            if (
                is_alive
                and batch
                and not self._budgets.fits(
                    request, n_atoms + request.n_atoms, n_pairs + request.n_pairs
                )
            ):
                return
            self._pop(lane, head)
            if not request.future.set_running_or_notify_cancel():
                continue
            if request.is_expired(now):
                expired.append(request)
                continue
            self._note_turn(head)
            batch.append(request)
            n_atoms += request.n_atoms
            n_pairs += request.n_pairs
        del self._lanes[key]

    def _note_turn(self, head: Head) -> None:
        """Charge an estimate, so that a batch is filled from all who wait."""
        self._callers.note_turn(head.caller)
        head.caller.parts.note_turn(head.connection)
        request = head.entry.request
        self._charge(request, self._costs.weight(request), head.caller, head.connection)

    @staticmethod
    def _charge(
        request: Request[Any], seconds: float, caller: Account, connection: Account | None
    ) -> None:
        """Charge the time that a request takes, less what it was charged before."""
        caller.charge(seconds - request.charged)
        if connection is not None:
            connection.charge(seconds - request.charged)
        request.charged = seconds


def _number(entry: Entry) -> int:
    return entry.number
