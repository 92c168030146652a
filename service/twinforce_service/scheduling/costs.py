"""Predict the time of a batch from earlier batches; no threads, no clock, no I/O."""

from collections.abc import Iterable
from math import inf, sqrt
from typing import TypeAlias

_Three: TypeAlias = tuple[float, float, float]
# A symmetric matrix: its diagonal, then the off-diagonal elements 01, 02, 12.
_Symmetric: TypeAlias = tuple[float, float, float, float, float, float]

# Factor that old batches are discounted by along the direction of each new one.
_FORGETTING = 0.97
# Relative errors are clipped at this many times the usual error.
_OUTLIER = 3.0
# Ratio of numbers of atoms from which two batches count as different in size.
_CONTRAST = 1.3
# Weight of the initial guess, in batches.
_WEIGHT_OF_GUESS = 0.1
# Lower bound of the pivots of a positive definite matrix, relative to its elements.
_ROUNDING = 1e-14


class CostCurve:
    """A model of the time of a batch, t = a + b·atoms + c·pairs, fitted by recursive least squares.

    The fit minimizes relative errors, as the noise grows with the time. Old batches are forgotten
    only along the direction of a new one (Cao and Schwartz, Automatica 36, 1725, 2000), so that a
    thousand batches of one size do not erase the information in batches of other sizes. No
    coefficient is negative, and there is no fixed cost until batches of different sizes were seen.

    The algebra, three by three after every batch, is written out: that takes a tenth of the time
    of numpy.
    """

    def __init__(self) -> None:
        self.n_batches = 0
        self._units: _Three = (1.0, 1.0, 1.0)
        self._shares: _Three = (0.0, 0.5, 0.5)
        self._information: _Symmetric = (*(_WEIGHT_OF_GUESS,) * 3, 0.0, 0.0, 0.0)
        self._usual_error = 0.3
        self._fewest, self._most = inf, 0
        self._shortest = inf

    def note(self, n_atoms: int, n_pairs: int, seconds: float) -> None:
        """Update the fit with the time of a batch."""
        if seconds <= 0.0:
            return
        if not self.n_batches:
            self._units = seconds, seconds / n_atoms, seconds / max(n_pairs, 1)
        self.n_batches += 1
        self._fewest, self._most = min(self._fewest, n_atoms), max(self._most, n_atoms)
        self._shortest = min(self._shortest, seconds)
        x = _three(u * n / seconds for u, n in zip(self._units, (1, n_atoms, n_pairs), strict=True))
        error = 1.0 - _dot(x, self._shares)
        weight = min(1.0, _OUTLIER * self._usual_error / max(abs(error), 1e-9))
        bounded = min(abs(error), 10 * self._usual_error + 0.01)
        self._usual_error += 0.1 * (bounded - self._usual_error)
        known = _times(self._information, x)
        self._information = _plus(
            self._information, -(1.0 - _FORGETTING) / _dot(x, known), known, weight, x
        )
        change = _solved(self._information, x)
        self._shares = _three(
            max(s + weight * error * c, 0.0) for s, c in zip(self._shares, change, strict=True)
        )

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """The coefficients a, b and c, in s; zero before the first batch."""
        if not self.n_batches:
            return 0.0, 0.0, 0.0
        return _three(u * s for u, s in zip(self._units, self._shares, strict=True))

    @property
    def fixed(self) -> float:
        """Time that one batch may save over two, in s: a, or the shortest batch if a is unknown.

        The value of a is unknown while all batches have had one size. The shortest batch is an
        optimistic guess, which makes the caller try other sizes.
        """
        if self._most < _CONTRAST * self._fewest:
            return self._shortest if self.n_batches else 0.0
        return self.coefficients[0]

    def seconds(self, n_atoms: int, n_pairs: int) -> float:
        """Return the expected time of a batch of this size, in s."""
        a, b, c = self.coefficients
        return a + b * n_atoms + c * n_pairs


def _three(values: Iterable[float]) -> _Three:
    a, b, c = values
    return a, b, c


def _dot(x: _Three, y: _Three) -> float:
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


def _times(matrix: _Symmetric, x: _Three) -> _Three:
    a, b, c, ab, ac, bc = matrix
    return _dot((a, ab, ac), x), _dot((ab, b, bc), x), _dot((ac, bc, c), x)


def _plus(matrix: _Symmetric, p: float, x: _Three, q: float, y: _Three) -> _Symmetric:
    """Return the matrix + p x xᵀ + q y yᵀ."""
    a, b, c, ab, ac, bc = matrix
    return (
        a + p * x[0] * x[0] + q * y[0] * y[0],
        b + p * x[1] * x[1] + q * y[1] * y[1],
        c + p * x[2] * x[2] + q * y[2] * y[2],
        ab + p * x[0] * x[1] + q * y[0] * y[1],
        ac + p * x[0] * x[2] + q * y[0] * y[2],
        bc + p * x[1] * x[2] + q * y[1] * y[2],
    )


def _solved(matrix: _Symmetric, x: _Three) -> _Three:
    """Return y with matrix y = x, by Cholesky decomposition of the positive definite matrix."""
    a, b, c, ab, ac, bc = matrix
    ka = sqrt(a)
    kb, kc = ab / ka, ac / ka
    lb = sqrt(max(b - kb * kb, _ROUNDING * b))
    lc = (bc - kb * kc) / lb
    mc = sqrt(max(c - kc * kc - lc * lc, _ROUNDING * c))
    u = x[0] / ka
    v = (x[1] - kb * u) / lb
    w = (x[2] - kc * u - lc * v) / mc / mc
    v = (v - lc * w) / lb
    return (u - kb * v - kc * w) / ka, v, w
