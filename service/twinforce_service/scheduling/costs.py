"""Predict the time of a batch from earlier batches; no threads, no clock, no I/O."""

from collections.abc import Hashable, Iterable, Sequence
from math import inf, sqrt
from typing import Any, TypeAlias

from twinforce_service.scheduling.request import Request

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
# Batches of a group that are learned from at once, as the first ones say the most.
_YOUNG = 32
# Batches of a group before which no batch is kept short.
_NEW = 4
# Time per atom before the first batch, in s; only ratios matter.
_GUESS = 1e-5
# The fixed time of a batch may be at most this part of it.
_OVERHEAD = 0.1
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
        self.coefficients: _Three = (0.0, 0.0, 0.0)
        """The coefficients a, b and c, in s; zero before the first batch."""
        self._units: _Three = (1.0, 1.0, 1.0)
        self._shares: _Three = (0.0, 0.5, 0.5)
        self._information: _Symmetric = (*(_WEIGHT_OF_GUESS,) * 3, 0.0, 0.0, 0.0)
        self._usual_error = 0.3
        self._fewest, self._most = inf, 0
        self._shortest = self._best_pace = inf

    def note(self, n_atoms: int, n_pairs: int, seconds: float) -> None:
        """Update the fit with the time of a batch."""
        if seconds <= 0.0:
            return
        if not self.n_batches:
            self._units = seconds, seconds / n_atoms, seconds / max(n_pairs, 1)
        self.n_batches += 1
        self._fewest, self._most = min(self._fewest, n_atoms), max(self._most, n_atoms)
        self._shortest = min(self._shortest, seconds)
        self._best_pace = min(self._best_pace, seconds / n_atoms)
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
        self.coefficients = _three(u * s for u, s in zip(self._units, self._shares, strict=True))

    @property
    def fixed(self) -> float:
        """Time that one batch may save over two, in s: a, or the shortest batch if a is unknown.

        The value of a is unknown while all batches have had one size. The shortest batch is an
        optimistic guess, which makes the caller try other sizes.
        """
        if not self._has_contrast:
            return self._shortest if self.n_batches else 0.0
        return self.coefficients[0]

    @property
    def _has_contrast(self) -> bool:
        """True if batches of different sizes were seen, from which alone a can be known."""
        return self._most >= _CONTRAST * self._fewest

    def seconds(self, n_atoms: int, n_pairs: int) -> float:
        """Return the expected time of a batch of this size, in s."""
        a, b, c = self.coefficients
        return a + b * n_atoms + c * n_pairs

    def takes_longer(self, n_atoms: int, n_pairs: int, limit: float) -> bool:
        """Return True if a batch of this size would take longer than a limit in s.

        Batches whose fixed time would be a large part of the limit may take longer. While all
        batches have had one size, others are tried: of half that size, or of twice the limit.
        """
        if self.n_batches < _NEW:
            return False
        if self.n_batches < _YOUNG and n_atoms * self._best_pace <= limit:
            return False  # the first batch is often slow, and takes a while to be forgotten
        expected = self.seconds(n_atoms, n_pairs)
        if self._has_contrast:
            return expected > max(limit, self.coefficients[0] / _OVERHEAD)
        return expected > 2 * limit and 2 * n_atoms > self._most


class Costs:
    """The times of batches of each group, as learned from earlier ones.

    Args:
        max_batch_time: Time that a batch should take at most, in s.
    """

    def __init__(self, max_batch_time: float = inf) -> None:
        self._max_batch_time = max_batch_time
        self._curves: dict[Hashable, CostCurve] = {}
        # Batches that the curves do not include yet: group, atoms, pairs and s.
        self._new: list[tuple[Hashable, int, int, float]] = []
        self._is_eager = False

    def note(self, batch: Sequence[Request[Any]], seconds: float) -> None:
        """Record the time of a batch."""
        group = batch[0].group
        n_atoms, n_pairs = size(batch)
        self._new.append((group, n_atoms, n_pairs, seconds))
        self._is_eager = self._is_eager or self.curve(group).n_batches < _YOUNG

    def learn(self, *, at_least: int = 1) -> None:
        """Update the curves with the recorded batches, which takes longer than to record them.

        Args:
            at_least: Number of recorded batches below which nothing is done, unless little is
                known about one of them.
        """
        if len(self._new) < at_least and not self._is_eager:
            return
        for group, n_atoms, n_pairs, seconds in self._new:
            self._curves.setdefault(group, CostCurve()).note(n_atoms, n_pairs, seconds)
        self._new.clear()
        self._is_eager = False

    def curve(self, group: Hashable) -> CostCurve:
        """Return what is known of a group."""
        return self._curves.get(group) or CostCurve()

    def takes_too_long(self, group: Hashable, n_atoms: int, n_pairs: int) -> bool:
        """Return True if others who come meanwhile would wait too long for a batch of this size."""
        curve = self._curves.get(group)
        return curve is not None and curve.takes_longer(n_atoms, n_pairs, self._max_batch_time)

    def weight(self, request: Request[Any]) -> float:
        """Return the time that a request adds to a batch, in s; positive."""
        n_atoms, curve = request.n_atoms, self._curves.get(request.group)
        if curve is None:
            return _GUESS * n_atoms
        _, per_atom, per_pair = curve.coefficients
        return per_atom * n_atoms + per_pair * request.n_pairs or _GUESS * n_atoms

    def split(self, batch: Sequence[Request[Any]], seconds: float) -> list[float]:
        """Return the part of each request in the time of a batch, in s."""
        if len(batch) == 1:
            return [seconds]
        weights = [self.weight(request) for request in batch]
        scale = seconds / sum(weights)
        return [scale * weight for weight in weights]


def size(requests: Iterable[Request[Any]]) -> tuple[int, int]:
    """Return the numbers of atoms and of pairs."""
    n_atoms = n_pairs = 0
    for request in requests:
        n_atoms += request.n_atoms
        n_pairs += request.n_pairs
    return n_atoms, n_pairs


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
