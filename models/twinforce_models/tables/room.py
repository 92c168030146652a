"""How many neighbors tables have room for: enough, and not much more."""

_STEP = 8
_SMALLEST = 16
_PATIENCE = 512
"""Batches that would have done with less room before it is taken back."""


class Room:
    """Room for the neighbors of an atom; grows at once, and shrinks when long not needed.

    Attributes:
        listed: For those within the cutoff.
        seen: For those that a potential chooses among them.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.listed = self.seen = _SMALLEST
        self._n_batches = self._most_listed = self._most_seen = 0

    def is_enough(self, n_listed: int, n_seen: int) -> bool:
        """Tell whether there was room for so many; if not, there is now.

        Args:
            n_listed: Of the most crowded atom of a batch.
            n_seen: Likewise; means nothing unless there was room for `n_listed`.
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
    """Return the room for n: some more, so that little movements do not ask for more at once."""
    return max(_SMALLEST, -(-(n + 1) // _STEP) * _STEP)
