"""The time that a batch may take before its engine counts as hung; no threads, no clock, no I/O."""

from collections.abc import Hashable, Sequence
from typing import Any

from twinforce_service.scheduling.request import JacobianRequest, Request

# A batch may take this many times as long as the slowest batch of its size.
_FACTOR = 10.0
# Part of the slowest time that is kept after each batch, so that a single outlier is forgotten.
_MEMORY = 0.99
# A batch of a new size may compile kernels. It may take this many times the time that is always
# allowed, and so many seconds for each atom.
_PATIENCE, _PER_ATOM = 30.0, 0.1
# The same for a system that an engine may have hung on, as all others wait for it.
_PATIENCE_WITH_SUSPECT = 3.0


class TimeLimits:
    """The time that each batch may take, learned from earlier ones.

    Batches are compared with those of the same kind whose atoms and pairs are the same power of
    two. So nothing is extrapolated: a potential may scale with any power of the size, and it may
    compile something for each size.

    Args:
        shortest: Time that every batch is allowed, in s.
    """

    def __init__(self, shortest: float) -> None:
        self._shortest = shortest
        self._slowest: dict[Hashable, float] = {}
        self._size: Hashable = None

    def begin(self, batch: Sequence[Request[Any]]) -> float:
        """Return the time that a batch, which begins now, is allowed beyond the shortest, in s."""
        self._size, n_atoms = _size(batch)
        slowest = self._slowest.get(self._size)
        if slowest is None:
            patience = _PATIENCE_WITH_SUSPECT if batch[0].is_suspect else _PATIENCE
            return patience * self._shortest + _PER_ATOM * n_atoms
        return _FACTOR * slowest

    def end(self, seconds: float) -> None:
        """Learn from the time that the batch took that has begun last."""
        self._slowest[self._size] = max(seconds, _MEMORY * self._slowest.get(self._size, 0.0))


def _size(batch: Sequence[Request[Any]]) -> tuple[Hashable, int]:
    """Return a key of batches that take about the same time, and the number of atoms.

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
    return (kind, n_atoms.bit_length(), n_pairs.bit_length()), n_atoms
