"""The requests and runs that were sent to an engine process and are not over."""

from collections.abc import Iterable, Sequence
from itertools import count
from threading import Lock
from typing import Any

from twinforce_proto import ServiceError
from twinforce_service.engine.runs import Run
from twinforce_service.scheduling.places import Placed, QueuePlaces
from twinforce_service.scheduling.request import Limits, Request


class Pending:
    """Requests and runs by number, and the places that their callers hold; safe in any thread.

    Attributes:
        n_atoms: Number of their atoms.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._changing = Lock()
        self._entries: dict[int, Request[Any] | Run] = {}
        self.n_atoms = 0
        self._places = QueuePlaces()

    def next_number(self) -> int:
        """Return a new number."""
        return next(self._numbers)

    def add(self, numbered: Sequence[tuple[int, Request[Any] | Run]]) -> int:
        """Add requests or runs with their numbers; return the number of their atoms."""
        n_atoms = sum([entry.n_atoms for _, entry in numbered])
        with self._changing:
            self._entries.update(numbered)
            self.n_atoms += n_atoms
            for _, entry in numbered:
                self._places.enter(entry)
        return n_atoms

    def may_enter(
        self, entries: Sequence[Placed], n_requests: int, n_atoms: int, limits: Limits
    ) -> bool:
        """Return True if entries of one caller may wait, given the places that callers hold.

        Args:
            entries: Requests or runs that are to be added.
            n_requests: Number of requests that wait.
            n_atoms: Number of their atoms.
            limits: Limits of these.
        """
        with self._changing:
            return self._places.may_enter(entries, n_requests, n_atoms, limits)

    def get(self, number: int) -> Request[Any] | Run | None:
        """Return a request or a run, or None if it is over."""
        return self._entries.get(number)

    def among(self, numbers: Iterable[int]) -> list[Request[Any] | Run]:
        """Return those of these requests and runs that are not over, each once."""
        found = (self._entries.get(number) for number in dict.fromkeys(numbers))
        return [entry for entry in found if entry is not None]

    def pop(self, number: int) -> Request[Any] | Run | None:
        """Remove and return a request or a run; return None if it is over."""
        with self._changing:
            entry = self._entries.pop(number, None)
            if entry is not None:
                self.n_atoms -= entry.n_atoms
                self._places.leave(entry)
            return entry

    def fail_all(self, error: ServiceError, which: type = object) -> None:
        """End everything, or everything of one type, with this error."""
        with self._changing:
            entries = list(self._entries.items())
        for number, entry in entries:
            if isinstance(entry, which) and self.pop(number) is not None:
                entry.fail(error)
