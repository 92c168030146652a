"""The places of a queue, and which callers still get one when it is full; no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from twinforce_service.callers.caller import Caller
from twinforce_service.scheduling.request import Limits

# A queue never holds more than this multiple of its limits, however many callers there are.
_MOST_EXCESS = 4


class Placed(Protocol):
    """A request or a run: anything that takes a place."""

    caller: Caller

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""


@dataclass(slots=True, eq=False)
class _Held:
    """The places that a caller holds."""

    share: float
    n_requests: int = 0
    n_atoms: int = 0


class QueuePlaces:
    """The places that each caller holds.

    While there is room, anyone gets a place. A full queue still admits callers that hold less than
    their share of it, with those who hold places now, and single requests of callers that hold
    none. So nobody is refused because of what others sent, and no request that was admitted has to
    go. The queue exceeds its limits for a while then, at most by the factor 1 + 1/2 + ... + 1/n for
    n callers of equal share: those above their share are refused until it has room again. At four
    times its limits it is full for everybody, so that memory is bounded for any number of callers.
    """

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._total_share = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def enter(self, entry: Placed) -> None:
        """Count a place."""
        caller = entry.caller
        held = self._held.get(caller.name)
        if held is None:
            held = self._held[caller.name] = _Held(caller.share)
            self._total_share += caller.share
        elif held.share != caller.share:
            self._total_share += caller.share - held.share
            held.share = caller.share
        held.n_requests += 1
        held.n_atoms += entry.n_atoms

    def leave(self, entry: Placed) -> None:
        """Count a place no more."""
        name = entry.caller.name
        held = self._held[name]
        held.n_requests -= 1
        held.n_atoms -= entry.n_atoms
        if not held.n_requests:
            del self._held[name]
            self._total_share = self._total_share - held.share if self._held else 0.0

    def may_enter(
        self, entries: Sequence[Placed], n_requests: int, n_atoms: int, limits: Limits
    ) -> bool:
        """Return True if the requests of a call may wait in a queue of this many requests."""
        if has_room(entries, n_requests, n_atoms, limits):
            return True
        n_new_atoms = sum([each.n_atoms for each in entries])
        if (
            n_requests + len(entries) > _MOST_EXCESS * limits.max_waiting
            or n_atoms + n_new_atoms > _MOST_EXCESS * limits.max_waiting_atoms
        ):
            return False
        caller = entries[0].caller
        if (held := self._held.get(caller.name)) is None:
            if len(entries) == 1:
                return True
            held = _Held(0.0)
        # Sums of very different shares are not exact.
        share_of_others = max(self._total_share - held.share, 0.0)
        part = caller.share / (share_of_others + caller.share)
        return (
            held.n_requests + len(entries) <= part * limits.max_waiting
            and held.n_atoms + n_new_atoms <= part * limits.max_waiting_atoms
        )


def has_room(entries: Sequence[Placed], n_requests: int, n_atoms: int, limits: Limits) -> bool:
    """Return True if entries fit into a queue of this many requests and atoms."""
    return not n_requests or (
        n_requests + len(entries) <= limits.max_waiting
        and n_atoms + sum([each.n_atoms for each in entries]) <= limits.max_waiting_atoms
    )
