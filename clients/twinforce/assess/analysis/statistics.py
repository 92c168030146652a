"""Means of correlated series, with errors that account for the correlation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Fewer independent values do not give a reliable error.
_FEWEST_INDEPENDENT = 8.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its statistical error.

    Attributes:
        value: The value; NaN if it cannot be estimated.
        error: One standard error; NaN if it cannot be estimated.
        n_independent: Effective number of independent samples.
        is_reliable: True if the series was long enough for a reliable error.
    """

    value: float
    error: float
    n_independent: float
    is_reliable: bool


UNKNOWN = Estimate(math.nan, math.nan, 0.0, False)


def block_average(series: ArrayLike) -> Estimate:
    """Return the mean of a stationary, correlated series with its standard error.

    Errors of the mean of blocks grow with their length B until blocks are independent (Flyvbjerg,
    Petersen, J. Chem. Phys. 91, 461 (1989)). The length is the smallest power of two with

        B³ > 2 n (s_B / s_1)⁴        s_B -> error of the mean from blocks of B,  n -> length

    which balances the remaining correlation against the scatter of few blocks (Lee et al., Phys.
    Rev. E 83, 066706 (2011)). If no length satisfies it, the error is too small and the estimate
    is marked as unreliable.

    Args:
        series: Evenly spaced values, shape [n].
    """
    values = np.asarray(series, dtype=np.float64)
    if len(values) < 4 or not np.isfinite(values).all():
        return UNKNOWN
    mean = float(values.mean())
    first = _error_of_mean(values)
    if first == 0.0:
        return Estimate(mean, 0.0, float(len(values)), True)
    errors = []
    size = 1
    while len(values) // size >= 4:
        error = _error_of_mean(in_blocks(values, size))
        if error == 0.0:  # fluctuations cancel within each block
            return Estimate(mean, 0.0, float(len(values)), True)
        errors.append(error)
        if size**3 > 2 * len(values) * (error / first) ** 4:
            n_independent = len(values) * (first / error) ** 2
            return Estimate(mean, error, n_independent, n_independent >= _FEWEST_INDEPENDENT)
        size *= 2
    error = max(errors)
    return Estimate(mean, error, len(values) * (first / error) ** 2, False)


def in_blocks(values: Floats, size: int) -> Floats:
    """Return the means of consecutive blocks of this size; a remainder is dropped at the start."""
    n_blocks = len(values) // size
    kept = values[len(values) - n_blocks * size :]
    means: Floats = kept.reshape(n_blocks, size, *values.shape[1:]).mean(axis=1)
    return means


def mean_of_independent(values: Sequence[float] | Floats) -> Estimate:
    """Return the mean of independent values with its standard error."""
    n_values = len(values)
    if n_values == 0:
        return UNKNOWN
    mean = float(np.mean(values))
    if n_values == 1:
        return Estimate(mean, math.nan, 1.0, False)
    return Estimate(mean, _error_of_mean(np.asarray(values)), float(n_values), n_values >= 4)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Return the median of ratios taken pair by pair, in which common disturbances cancel.

    It is unknown if a denominator is zero.

    The error is that of the median of normally distributed values, from their middle 68%.
    """
    if not numerators:
        return UNKNOWN
    if not all(denominators):
        return UNKNOWN
    ratios = np.asarray(numerators) / np.asarray(denominators)
    low, middle, high = np.percentile(ratios, [15.87, 50.0, 84.13])
    if len(ratios) < 4:
        return Estimate(float(middle), math.nan, float(len(ratios)), False)
    error = math.sqrt(math.pi / 2) * (high - low) / 2 / math.sqrt(len(ratios))
    return Estimate(float(middle), float(error), float(len(ratios)), len(ratios) >= 6)


def _error_of_mean(values: Floats) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
