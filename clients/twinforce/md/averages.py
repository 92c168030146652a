"""Averages over a run of any length, in little memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_MAX_BLOCKS = 64
_N_BLOCKS_OF_ERROR = 8


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, and its standard error; the error is None if there are too few values."""

    value: float
    error: float | None


class BlockAverages:
    """Averages of several quantities over blocks of a run, all of the same length.

    If there are many blocks, neighbors are merged.
    """

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.float64]] = []
        self._length = 1
        self._sum: NDArray[np.float64] | None = None
        self._n_in_sum = 0
        self._total: NDArray[np.float64] | None = None
        self._n_total = 0

    def add(self, values: Sequence[float]) -> None:
        """Add the quantities of one state."""
        row = np.array(values, float)
        self._total = row if self._total is None else self._total + row
        self._n_total += 1
        self._sum = row if self._sum is None else self._sum + row
        self._n_in_sum += 1
        if self._n_in_sum == self._length:
            self._blocks.append(self._sum / self._length)
            self._sum, self._n_in_sum = None, 0
        if len(self._blocks) == _MAX_BLOCKS:
            pairs = np.array(self._blocks).reshape(_MAX_BLOCKS // 2, 2, -1)
            self._blocks = [*pairs.mean(axis=1)]
            self._length *= 2

    @property
    def blocks(self) -> NDArray[np.float64]:
        """Averages of the complete blocks, shape [n_blocks, n_quantities]."""
        return np.array(self._blocks)

    def mean(self, quantity: int) -> Mean:
        """Return the mean of a quantity; its error comes from the scatter of eight blocks."""
        if self._total is None:
            raise ValueError("mean: expected at least one state, got none")
        mean = float(self._total[quantity] / self._n_total)
        n_per_block = len(self._blocks) // _N_BLOCKS_OF_ERROR
        if n_per_block < 2:
            return Mean(mean, None)
        kept = self.blocks[-n_per_block * _N_BLOCKS_OF_ERROR :, quantity]
        means = kept.reshape(_N_BLOCKS_OF_ERROR, -1).mean(axis=1)
        return Mean(mean, float(means.std(ddof=1)) / math.sqrt(_N_BLOCKS_OF_ERROR))
