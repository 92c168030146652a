"""The number of neighbors per atom that tables have columns for: enough, and not many more."""

_STEP = 8
_SMALLEST = 16
_PATIENCE = 512
"""Number of batches that must need fewer columns before the capacity shrinks."""


class NeighborCapacity:
    """Columns for the neighbors of an atom; grows immediately, shrinks after many smaller batches.

    Attributes:
        listed: Columns for the neighbors within the cutoff.
        seen: Columns for the neighbors that a potential chooses among those.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Return to the smallest capacity."""
        self.listed = self.seen = _SMALLEST
        self._n_batches = self._most_listed = self._most_seen = 0

    def fits_or_grows(self, n_listed: int, n_seen: int) -> bool:
        """Return True if a batch fit; otherwise grow, so that it fits the next time.

        Args:
            n_listed: Largest number of neighbors within the cutoff of any atom of the batch.
            n_seen: Largest number of chosen neighbors; meaningless unless `n_listed` fit.
        """
        if n_listed > self.listed:
            self.listed = _rounded(n_listed)
            return False
        if n_seen > self.seen:
            self.seen = _rounded(n_seen)
            return False
        self._n_batches += 1
        self._most_listed = max(self._most_listed, n_listed)
        self._most_seen = max(self._most_seen, n_seen)
        if self._n_batches >= _PATIENCE:
            self._shrink()
        return True

    def _shrink(self) -> None:
        self.listed = min(self.listed, _rounded(self._most_listed))
        self.seen = min(self.seen, _rounded(self._most_seen))
        self._n_batches = self._most_listed = self._most_seen = 0


def _rounded(n: int) -> int:
    """Return a capacity for n with some reserve, so that small movements do not exceed it."""
    return max(_SMALLEST, -(-(n + 1) // _STEP) * _STEP)
