"""The time that a batch may take before its engine counts as hung; no threads, no clock, no I/O."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from twinforce_service.scheduling.request import JacobianRequest, Request

# A batch may take this many times as long as the slowest batch of its size.
_FACTOR = 10.0
# Part of the slowest time that is kept after each batch, so that a single outlier is forgotten.
_MEMORY = 0.99
# The time of a new size grows at most with this power of the atoms or pairs, whichever grow more.
_POWER = 2
# A batch of a new size may compile kernels for this many times the time that is always allowed,
# besides what first batches took.
_COMPILATION = 3.0
# Of a kind of which nothing is known, a batch may take this many times the time that is always
# allowed, so many seconds for each atom, and what compiling may take by the time of the warm-up;
# this bounds the time of new sizes, too.
_PATIENCE, _PER_ATOM = 30.0, 0.1
# The same for a system that an engine may have hung on, as all others wait for it.
_PATIENCE_WITH_SUSPECT = 3.0

_Size: TypeAlias = tuple[int, int]


@dataclass(slots=True)
class _Known:
    """The batches of one kind so far.

    Attributes:
        slowest: Time of the slowest batch of each size, in s.
        first: Time of the slowest batch that was the first of its size, in s; it may have compiled
            something.
    """

    slowest: dict[_Size, float] = field(default_factory=dict)
    first: float = 0.0


class TimeLimits:
    """The time that each batch may take, learned from earlier ones.

    Batches are compared with those of the same kind whose atoms and pairs are the same power of
    two. For a new size, the time is bounded from above by that of any size that is known, as if it
    grew with the square of the size, and it may compile something as other first batches, and the
    warm-up of the model, did.

    Args:
        shortest: Time that every batch is allowed, in s.
    """

    def __init__(self, shortest: float) -> None:
        self._shortest = shortest
        self._known: dict[Hashable, _Known] = {}
        # Times of the evaluations before the first request, by model, in s.
        self._warm_ups: dict[str, float] = {}
        self._kind: Hashable = None
        self._size: _Size = (0, 0)

    def note_warm_up(self, model: str, seconds: float) -> None:
        """Learn from the time that a model took before the first request, in s.

        It may have compiled something, and so may the first batch of each size.
        """
        self._warm_ups[model] = max(self._warm_ups.get(model, 0.0), seconds)

    def begin(self, batch: Sequence[Request[Any]]) -> float:
        """Return the time that a batch, which begins now, is allowed beyond the shortest, in s."""
        self._kind, n_atoms, n_pairs = _measured(batch)
        self._size = n_atoms.bit_length(), n_pairs.bit_length()
        known = self._known.get(self._kind)
        if known is not None and (slowest := known.slowest.get(self._size)) is not None:
            return _FACTOR * slowest
        patience = _PATIENCE_WITH_SUSPECT if batch[0].is_suspect else _PATIENCE
        warm_up = self._warm_ups.get(batch[0].model, 0.0)
        longest = patience * self._shortest + _PER_ATOM * n_atoms + _FACTOR * warm_up
        if known is None:
            return longest
        expected = max(known.first, warm_up) + min(
            seconds * _growth(size, n_atoms, n_pairs) for size, seconds in known.slowest.items()
        )
        return min(_FACTOR * expected + _COMPILATION * self._shortest, longest)

    def end(self, seconds: float) -> None:
        """Learn from the time that the batch took that has begun last."""
        known = self._known.setdefault(self._kind, _Known())
        before = known.slowest.get(self._size)
        if before is None:
            known.first = max(known.first, seconds)
        known.slowest[self._size] = max(seconds, _MEMORY * (before or 0.0))


def _growth(size: _Size, n_atoms: int, n_pairs: int) -> float:
    """Return the factor by which a batch may take longer than one of a size, at least 1."""
    least_atoms, least_pairs = (2 ** max(bits - 1, 0) for bits in size)
    growth = max(n_atoms / least_atoms, n_pairs / least_pairs, 1.0)
    return float(growth**_POWER)


def _measured(batch: Sequence[Request[Any]]) -> tuple[Hashable, int, int]:
    """Return a key of batches that take the same steps, and the numbers of atoms and of pairs.

    Each row of a Jacobian counts as an evaluation of all atoms.
    """
    first = batch[0]
    n_atoms = n_pairs = 0
    for request in batch:
        n_atoms += request.n_atoms
        n_pairs += request.n_pairs
    if isinstance(first, JacobianRequest):
        n_rows = len(first.rows)
        n_atoms, n_pairs = n_atoms * n_rows, n_pairs * n_rows
        kind: Hashable = first.model
    else:
        kind = first.kind
    return kind, n_atoms, n_pairs
