"""Requests that may share a batch, in the order of their turns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

from twinforce_proto.headers import NORMAL_URGENCY
from twinforce_service.scheduling.accounts import Account
from twinforce_service.scheduling.request import Request

# Seconds after which a request without a deadline is due; earlier deadlines go first.
_PATIENCE = 1.0
# A level of urgency counts as this many seconds, so that no request waits forever.
_LEVEL = 60.0

_Content = TypeVar("_Content")


class Entry(NamedTuple):
    """A request that waits; the one that is due first compares as the smallest."""

    due: float
    number: int
    request: Request[Any]

    @classmethod
    def of(cls, request: Request[Any], number: int) -> "Entry":
        """Return the entry of a request; those that came earlier have lower numbers."""
        due = request.submitted_at + _PATIENCE
        if request.deadline is not None:
            due = min(due, request.deadline)
        return cls(due + _LEVEL * (request.urgency - NORMAL_URGENCY), number, request)


class _Line(Generic[_Content]):
    """Accounts in the order of their turns, and what waits for each turn.

    The cost of a change is logarithmic in the number of accounts. Accounts are charged elsewhere,
    too. As their time only grows, an outdated place in the heap is too early, and is corrected when
    it comes to the top.
    """

    def __init__(self, make: Callable[[], _Content]) -> None:
        self._make = make
        self._numbers = count()
        self._heap: list[tuple[float, int, Account]] = []
        self._contents: dict[Account, _Content] = {}

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __iter__(self) -> Iterator[_Content]:
        return iter(self._contents.values())

    def content_of(self, account: Account) -> _Content:
        """Return what waits for the turn of an account, which is empty if it is new."""
        if (content := self._contents.get(account)) is None:
            content = self._contents[account] = self._make()
            heappush(self._heap, (account.turn, next(self._numbers), account))
        return content

    def first(self) -> tuple[Account, _Content]:
        """Return the account whose turn comes first, and what waits for it."""
        while True:
            turn, number, account = self._heap[0]
            if account.turn <= turn:
                return account, self._contents[account]
            heapreplace(self._heap, (account.turn, number, account))

    def drop_first(self) -> None:
        """Remove the account that `first` has returned, as nothing waits for it any more."""
        _, _, account = heappop(self._heap)
        del self._contents[account]


def _connections() -> _Line[list[Entry]]:
    return _Line(list)


class Head(NamedTuple):
    """The first request of a lane, the accounts whose turn it is, and what waits with it.

    Attributes:
        entry: The request.
        caller: Account of its caller.
        connection: Account of its connection.
        of_caller: Everything of this caller in the lane.
        of_connection: Everything of this connection in the lane.
    """

    entry: Entry
    caller: Account
    connection: Account
    of_caller: _Line[list[Entry]]
    of_connection: list[Entry]


@dataclass(slots=True, eq=False)
class Lane:
    """Requests that may share a batch: by caller, by connection, and by the time they are due.

    Attributes:
        n_requests: Number of requests.
        n_atoms: Number of their atoms.
        n_pairs: Number of their pairs.
    """

    n_requests: int = 0
    n_atoms: int = 0
    n_pairs: int = 0
    _callers: _Line[_Line[list[Entry]]] = field(default_factory=lambda: _Line(_connections))

    def __iter__(self) -> Iterator[Entry]:
        return (entry for caller in self._callers for connection in caller for entry in connection)

    def push(self, caller: Account, connection: Account, entry: Entry) -> None:
        """Add a request."""
        heappush(self._callers.content_of(caller).content_of(connection), entry)
        self.n_requests += 1
        self.n_atoms += entry.request.n_atoms
        self.n_pairs += entry.request.n_pairs

    def head(self) -> Head:
        """Return the request that is first."""
        caller, of_caller = self._callers.first()
        connection, of_connection = of_caller.first()
        return Head(of_connection[0], caller, connection, of_caller, of_connection)

    def pop(self, head: Head) -> None:
        """Remove the request that `head` has just returned."""
        request = heappop(head.of_connection).request
        if not head.of_connection:
            head.of_caller.drop_first()
        if not head.of_caller:
            self._callers.drop_first()
        self.n_requests -= 1
        self.n_atoms -= request.n_atoms
        self.n_pairs -= request.n_pairs


def delay_of(request: Request[Any]) -> float:
    """Return the time that others may use before this request, in s; negative for a privilege.

    Less urgent requests make way for other callers. More urgent ones go first only within their
    own connection, unless their caller may be urgent.
    """
    delay = _LEVEL * (request.urgency - NORMAL_URGENCY)
    return delay if delay > 0.0 or request.caller.may_be_urgent else 0.0
