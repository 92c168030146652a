"""What a batch costs, learned from the batches before.  No threads, no clock, no I/O."""

from math import inf

import numpy as np

# How fast old batches are forgotten where new ones say the same thing again.
_FORGETTING = 0.97
# Relative errors beyond so many times the usual one count as if they were no larger.
_OUTLIER = 3.0
# Batches are of different size where one has so many times the atoms of another.
_CONTRAST = 1.3
# How much the first guess counts, in batches.
_WEIGHT_OF_GUESS = 0.1


class CostCurve:
    """The time of a batch, t = a + b·atoms + c·pairs, by recursive least squares.

    Relative errors are minimised, as noise grows with what is measured. Old batches are forgotten
    only along what a new one says (Cao and Schwartz, Automatica 36, 1725, 2000), so that a
    thousand batches of one size do not wash out what others have told. No coefficient is
    negative, and until batches of different size were seen, nothing is taken for a fixed cost.
    """

    def __init__(self) -> None:
        self.n_batches = 0
        self._units = np.ones(3)
        self._shares = np.array([0.0, 0.5, 0.5])
        self._information = _WEIGHT_OF_GUESS * np.eye(3)
        self._usual_error = 0.3
        self._fewest, self._most = inf, 0
        self._shortest = inf

    def note(self, n_atoms: int, n_pairs: int, seconds: float) -> None:
        """Learn from a batch that took so long."""
        if seconds <= 0.0:
            return
        if not self.n_batches:
            self._units = seconds / np.array([1.0, n_atoms, max(n_pairs, 1)])
        self.n_batches += 1
        self._fewest, self._most = min(self._fewest, n_atoms), max(self._most, n_atoms)
        self._shortest = min(self._shortest, seconds)
        x = self._units * (1.0, n_atoms, n_pairs) / seconds
        error = 1.0 - float(x @ self._shares)
        weight = min(1.0, _OUTLIER * self._usual_error / max(abs(error), 1e-9))
        bounded = min(abs(error), 10 * self._usual_error + 0.01)
        self._usual_error += 0.1 * (bounded - self._usual_error)
        known = self._information @ x
        self._information -= (1.0 - _FORGETTING) * np.outer(known, known) / float(x @ known)
        self._information += weight * np.outer(x, x)
        change = np.linalg.solve(self._information, x)
        self._shares = np.maximum(self._shares + weight * error * change, 0.0)

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """The a, b and c, in s; zero before the first batch."""
        if not self.n_batches:
            return 0.0, 0.0, 0.0
        a, b, c = (self._units * self._shares).tolist()
        return a, b, c

    @property
    def fixed(self) -> float:
        """What one batch may save over two, in s: a, or what the shortest took if a is not known.

        While all batches have had one size, nobody can tell; whoever hopes for the best finds out.
        """
        if self._most < _CONTRAST * self._fewest:
            return self._shortest if self.n_batches else 0.0
        return self.coefficients[0]

    def seconds(self, n_atoms: int, n_pairs: int) -> float:
        """Return what a batch of this size is expected to take, in s."""
        a, b, c = self.coefficients
        return a + b * n_atoms + c * n_pairs
