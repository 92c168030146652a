"""About how many neighbor pairs a system has, before anybody searches for them."""

import math

import numpy as np
from numpy.typing import NDArray

from twinforce_models.folding import face_distances, fold
from twinforce_proto import System

_Floats = NDArray[np.float64]
# The product of the lengths of the cell vectors over the volume; beyond, bins are slanted too much.
_MAX_SKEW = 2.0


def estimate_pairs(system: System, cutoff: float) -> int:
    """Return about how many neighbor pairs a system has, from how densely its atoms lie.

    The system is divided into equal bins, at least as wide as the cutoff where it is that large.
    An atom sees c/V · 4π/3 · cutoff³ others, c -> atoms in its bin, V -> volume of a bin. So
    neither empty space nor one atom far away hides a crowd, and images count.

    Args:
        system: Not changed.
        cutoff: In Å.

    Returns:
        Pairs of the full list, each counted in both directions.
    """
    positions, cell = _enclosed(system, cutoff)
    volume = abs(float(np.linalg.det(cell)))
    n_bins = np.maximum(face_distances(cell) // cutoff, 1.0)
    # What is open lies around the origin, which so comes into the middle of a bin.
    bins = np.floor(positions @ (np.linalg.inv(cell) * n_bins) + 0.5) % n_bins
    sphere_in_bins = 4 / 3 * math.pi * cutoff**3 * float(n_bins.prod()) / volume
    n_pairs = math.ceil(_sum_of_squares(bins, n_bins) * sphere_in_bins)
    n_atoms = len(system)
    return n_pairs if system.pbc.any() else min(n_pairs, n_atoms * (n_atoms - 1))


def _enclosed(system: System, cutoff: float) -> tuple[_Floats, _Floats]:
    """Return positions and a compact cell, periodic or around what is open."""
    if not system.pbc.any():
        # A few long rows are reduced many times faster than many short ones.
        columns = np.ascontiguousarray(system.positions.T)
        low, high = columns.min(axis=1), columns.max(axis=1)
        return system.positions - (low + high) / 2, np.diag(high - low + 2 * cutoff)
    if system.pbc.all():
        lengths = np.sqrt(np.einsum("ij,ij->i", system.cell, system.cell))
        if lengths.prod() <= _MAX_SKEW * abs(np.linalg.det(system.cell)):
            return system.positions, system.cell
    geometry = fold([system], cutoff)
    return geometry.search_positions, geometry.search_cells[0]


def _sum_of_squares(bins: _Floats, n_bins: _Floats) -> float:
    keys = ((bins[:, 0] * n_bins[1] + bins[:, 1]) * n_bins[2] + bins[:, 2]).astype(np.int64)
    if n_bins.prod() < 8 * len(keys):
        counts = np.bincount(keys)
    else:
        _, counts = np.unique(keys, return_counts=True)
    return float(np.square(counts, dtype=np.float64).sum())
